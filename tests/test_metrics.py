"""Metrics: against tokens counted one by one, against numpy, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.itl import itls, worst_itls_s
from coursekit.kv_cache import BlockCounter
from coursekit.metrics import (
    Slo,
    jain_index,
    keeps,
    num_stalls,
    request_metrics,
    summarize,
    summary_table,
    totals,
    weighted_percentiles,
)
from coursekit.schedulers import PrefillFirst, PriorityTokenBudget, TokenBudget
from tests.test_engine import rows_drawn, run


def brute_force_itls(trace):
    """Every gap of every request, from its token times."""
    return [np.diff(trace.token_times_s(index)) for index in trace.requests["request"]]


def preempting(rows, policy=TokenBudget, spare_blocks=1):
    blocks = spare_blocks + max(-(-(p + o) // 4) for _, p, o in rows)
    return run(sorted(rows), policy(token_budget=64, max_num_seqs=6, kv=BlockCounter(blocks, 4)))


@settings(max_examples=150, deadline=None)
@given(
    rows=rows_drawn, policy=st.sampled_from([TokenBudget, PriorityTokenBudget, PrefillFirst]),
    spare_blocks=st.integers(0, 30),
)  # fmt: skip
def test_pooled_and_worst_gaps_are_those_of_the_tokens(rows, policy, spare_blocks):
    trace = preempting(rows, policy, spare_blocks)
    expected = brute_force_itls(trace)
    outputs = trace.requests["num_output_tokens"]
    assert [len(gaps) + 1 for gaps in expected] == outputs.tolist()
    values, weights = itls(trace)
    assert (weights >= 1).all()
    pooled = np.sort(np.repeat(values, weights))
    assert np.allclose(pooled, np.sort(np.concatenate(expected)), rtol=0, atol=1e-9)
    worst = [gaps.max() if len(gaps) else np.nan for gaps in expected]
    assert np.allclose(worst_itls_s(trace), worst, rtol=0, atol=1e-9, equal_nan=True)


def test_the_cases_above_do_preempt():
    trace = preempting([(0.0, 40, 60), (0.0, 40, 60), (0.0, 30, 50)])
    assert trace.requests["num_preemptions"].sum() > 0
    assert len(trace.runs["request"]) > trace.num_requests


def test_token_times_end_with_the_request():
    trace = preempting([(0.0, 40, 60), (1.0, 40, 60), (2.5, 30, 1)])
    for index in range(3):
        times = trace.token_times_s(index)
        assert times[0] == trace.requests["first_token_s"][index]
        assert times[-1] == trace.requests["finished_s"][index]
    with pytest.raises(ValueError, match="request 7 is not in the record of 3"):
        trace.token_times_s(7)


@given(
    values=st.lists(st.floats(0, 100), min_size=1, max_size=30), data=st.data(),
    percent=st.floats(0, 100),
)  # fmt: skip
def test_weighted_percentiles_are_those_of_the_repeated_values(values, data, percent):
    weights = np.array([data.draw(st.integers(1, 6)) for _ in values])
    expected = np.percentile(np.repeat(values, weights), percent)
    found = weighted_percentiles(np.array(values), weights, [percent])[0]
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.fixture(scope="module")
def two_requests():
    """Plain costs: see test_engine. The second, long prompt blocks the first one's decodes."""
    return run([(0.0, 10, 4), (2.0, 500, 2)])


def test_metrics_of_two_requests_by_hand(two_requests):
    # iterations: prefill 10; decode; decode + 500 prefill; decode + decode
    first, second = 1 + 0.1, 1 + 0.01 + 0.001
    third = 1 + 5.01 + 0.0001 * 11
    fourth = 1 + 0.02 + 0.0001 * (12 + 500)
    ends = np.cumsum([first, second, third, fourth])
    assert np.allclose(two_requests.iterations["end_s"], ends)
    found = request_metrics(two_requests)
    assert np.allclose(found["ttft_s"], [ends[0], ends[2] - 2.0])
    assert np.allclose(found["scheduling_delay_s"], [0.0, ends[1] - 2.0])
    assert np.allclose(found["e2e_s"], [ends[3], ends[3] - 2.0])
    assert np.allclose(found["tpot_s"], [(ends[3] - ends[0]) / 3, fourth])
    assert np.allclose(found["worst_itl_s"], [third, fourth])
    table = summary_table(two_requests)
    assert table.loc["itl_s", "n"] == 4 and table.loc["itl_s", "over"] == "tokens"
    assert table.loc["itl_s", "max"] == pytest.approx(third)
    assert table.loc["ttft_s", "n"] == 2 and table.loc["ttft_s", "over"] == "requests"


def test_totals_of_two_requests_by_hand(two_requests):
    span = two_requests.iterations["end_s"][-1]
    found = totals(two_requests, Slo(itl_s=3.0))
    assert found["span_s"] == pytest.approx(span)
    assert found["requests_per_s"] == pytest.approx(2 / span)
    assert found["output_tokens_per_s"] == pytest.approx(6 / span)
    assert found["tokens_per_s"] == pytest.approx(516 / span)
    assert (found["slo_fraction"], found["goodput_per_s"]) == (0.5, pytest.approx(1 / span))
    assert num_stalls(two_requests, 3.0) == 1
    assert keeps(two_requests, Slo(ttft_s=2.0)).tolist() == [True, False]


def test_unfinished_requests_are_counted_and_left_out():
    trace = run([(0.0, 10, 1), (0.0, 10, 500)], until_s=20.0)
    assert totals(trace)["num_unfinished"] == 1
    assert next(row for row in summarize(trace) if row["metric"] == "e2e_s")["n"] == 1
    assert keeps(trace, Slo(e2e_s=1e9)).tolist() == [True, False]


def test_a_request_of_one_token_has_no_gap_to_miss():
    assert keeps(run([(0.0, 10, 1)]), Slo(itl_s=1e-9)).all()


def test_an_empty_record_has_empty_metrics():
    trace = run([])
    assert all(row["n"] == 0 and math.isnan(row["mean"]) for row in summarize(trace))
    found = totals(trace, Slo(itl_s=1.0))
    assert found["num_requests"] == found["goodput_per_s"] == 0
    assert math.isnan(found["slo_fraction"])


def test_tokens_computed_again_after_a_preemption_are_served_once():
    rows = [(0.0, 40, 60), (0.0, 40, 60), (0.0, 30, 50)]
    trace = preempting(rows)
    assert trace.iterations["num_prefill_tokens"].sum() > 110  # some were computed twice
    found = totals(trace)
    assert found["tokens_per_s"] * found["span_s"] == pytest.approx(110 + 170)


def test_without_a_limit_on_blocks_there_is_no_share_of_them():
    assert "kv_max" not in totals(run([(0.0, 10, 3)]))


def test_kv_occupancy_is_weighted_by_time():
    trace = run([(0.0, 16, 2)], TokenBudget(kv=BlockCounter(10, 16)))
    # one block during the prefill of 1.16 s, two during the decode of 1.0116 s
    mean = (0.1 * 1.16 + 0.2 * 1.0116) / (1.16 + 1.0116)
    assert totals(trace)["kv_mean"] == pytest.approx(mean)
    assert totals(trace)["kv_max"] == pytest.approx(0.2)


def test_jain_index_is_one_if_all_are_alike_and_one_nth_if_one_has_all():
    assert jain_index(np.array([2.0, 2.0, 2.0])) == pytest.approx(1.0)
    assert jain_index(np.array([5.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)


def test_impossible_slos_are_refused():
    with pytest.raises(ValueError, match="at least 1 limit of ttft_s, itl_s"):
        Slo()
    with pytest.raises(ValueError, match="itl_s must be > 0 s, got 0"):
        Slo(itl_s=0)
