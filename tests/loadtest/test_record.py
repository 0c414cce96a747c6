"""Outcomes as a record: the metrics of the record are those of the moments themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.itl import itls
from coursekit.loadtest.outcome import FINISHED, NOT_SENT, Outcome
from coursekit.loadtest.record import make_trace, only
from coursekit.metrics import request_metrics, summarize, totals
from coursekit.trace_io import read_parquet, write_chrome, write_parquet
from coursekit.workload import Workload

gaps = st.integers(0, 4).map(lambda steps: steps / 8)  # often equal, so that moments coincide


@st.composite
def runs(draw):
    """Outcomes, sent in order, of a workload that asks for what came or for more."""
    outcomes, now_s = [], 0.0
    for index in range(draw(st.integers(1, 6))):
        now_s += draw(gaps)
        moments_s = (now_s + 0.1 + np.cumsum(draw(st.lists(gaps, max_size=6)))).tolist()
        counts = [draw(st.integers(1, 3)) for _ in moments_s]
        kind = draw(st.sampled_from([FINISHED, "disconnected"] if moments_s else ["timed out", NOT_SENT]))
        outcome = Outcome(index, now_s, 10 + index, max(1, sum(counts)), kind=kind)
        if kind != NOT_SENT:
            outcome.sent_s, outcome.moments_s, outcome.num_tokens = now_s, moments_s, counts
            outcome.ended_s = max([now_s, *moments_s]) + draw(gaps)
        outcomes.append(outcome)
    columns = zip(*((o.scheduled_s, o.num_prompt_tokens, o.max_tokens) for o in outcomes))
    return outcomes, Workload(*columns)


@given(runs())
def test_metrics_of_the_record_are_those_of_the_moments(run):
    outcomes, workload = run
    trace = make_trace(outcomes, workload, "live (test)")
    sent = [o for o in outcomes if o.kind != NOT_SENT]
    times_s = [np.repeat(o.moments_s, o.num_tokens) for o in sent]
    for outcome, expected in zip(sent, times_s):
        assert trace.token_times_s(outcome.index).tolist() == expected.tolist()
    found = request_metrics(trace)
    first = [t[0] - o.sent_s if len(t) else np.nan for t, o in zip(times_s, sent)]
    assert found["ttft_s"] == pytest.approx(first, nan_ok=True)
    last = [t[-1] - o.sent_s if o.is_finished else np.nan for t, o in zip(times_s, sent)]
    assert found["e2e_s"] == pytest.approx(last, nan_ok=True)
    worst = [np.diff(t).max() if len(t) > 1 else np.nan for t in times_s]
    assert found["worst_itl_s"] == pytest.approx(worst, nan_ok=True)
    every_gap = np.sort(np.concatenate([np.diff(t) for t in times_s] or [[]]))
    assert np.sort(np.repeat(*itls(trace))) == pytest.approx(every_gap)
    summarize(trace), totals(trace)


@given(runs())
def test_moments_are_in_order_and_hold_every_token_once(run):
    outcomes, workload = run
    trace = make_trace(outcomes, workload, "live (test)")
    rows = trace.iterations
    assert (np.diff(rows["end_s"]) > 0).all() and (rows["start_s"] <= rows["end_s"]).all()
    assert (rows["start_s"][1:] >= rows["end_s"][:-1]).all()
    started = [o for o in outcomes if o.moments_s]
    assert rows["num_prefill_tokens"].sum() == sum(o.num_prompt_tokens for o in started)
    output = sum(o.num_output_tokens for o in outcomes)
    assert rows["num_decode_tokens"].sum() + len(started) == output == len(trace.chunks["request"])
    assert (np.diff(trace.chunks["iteration"]) >= 0).all() and (rows["num_waiting"] >= 0).all()
    assert (rows["num_running"] >= 1).all() and (rows["num_running"] <= len(outcomes)).all()


@pytest.fixture
def two():
    """A long one (prompt 10) that breaks off after 2 tokens, and one of 3 tokens in 2 events."""
    outcomes = [
        Outcome(0, 1.0, 10, 5, 1.0, 2.6, "disconnected", "gone", [2.0, 2.5], [1, 1]),
        Outcome(1, 1.2, 4, 3, 1.25, 2.5, FINISHED, "", [2.25, 2.5], [1, 2]),
    ]
    workload = Workload([1.0, 1.2], [10, 4], [5, 3], priority_class=["low", "high"])
    return make_trace(outcomes, workload, "live (test)", {"seed": 1})


def test_a_row_is_a_moment_and_says_who_waits(two):
    rows = {name: column.tolist() for name, column in two.iterations.items()}
    assert rows["start_s"] == [1.0, 2.0, 2.25] and rows["end_s"] == [2.0, 2.25, 2.5]
    assert rows["num_prefill_tokens"] == [10, 4, 0] and rows["num_decode_tokens"] == [0, 0, 3]
    assert rows["num_running"] == [1, 2, 2] and rows["num_waiting"] == [1, 0, 0]
    assert two.chunks["context"].tolist() == [0, 0, 10, 4, 5]
    assert "not an iteration of the server" in two.info["iterations"]


def test_a_class_on_its_own_has_its_own_metrics(two):
    mine = only(two, two.requests["priority_class"] == "high")
    rows = {row["metric"]: row for row in summarize(mine)}
    assert rows["ttft_s"]["mean"] == 1.0 and rows["itl_s"]["n"] == 2
    assert rows["itl_s"]["max"] == 0.25 and rows["itl_s"]["mean"] == 0.125
    assert {row["metric"]: row["n"] for row in summarize(two)}["itl_s"] == 3


def test_it_is_kept_as_any_record(two, tmp_path):
    back = read_parquet(write_parquet(two, tmp_path / "run"))
    assert back.label == two.label and back.info == two.info
    assert back.token_times_s(1).tolist() == [2.25, 2.5, 2.5]
    assert write_chrome(two, tmp_path / "run.json").stat().st_size > 500
