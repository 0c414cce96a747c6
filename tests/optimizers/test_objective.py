"""Limits on percentiles against numpy over every gap, and blocking time against a walk."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.cost import FormulaCost, RooflineCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.metrics import Slo
from coursekit.optimizers.objective import (
    Limit,
    RunSlo,
    keeps,
    limits_of,
    max_blocking_time_s,
    row_of,
    say_column,
)
from coursekit.simulate import make_scheduler
from coursekit.workload import Workload

COST = RooflineCost("a100", "llama-2-7b")


def run(arrivals, scheduler="token-budget", token_budget=64, cost=COST):
    policy = make_scheduler(scheduler, token_budget=token_budget, max_num_seqs=8)
    workload = Workload(*(list(column) for column in zip(*arrivals)))
    return Engine(policy, SimulatedExecutor(cost)).run(workload.source())


requests = st.lists(
    st.tuples(st.floats(0, 0.3), st.integers(1, 300), st.integers(1, 20)), min_size=1, max_size=8
)


@settings(max_examples=60, deadline=None)
@given(arrivals=requests, itl=st.sampled_from([50, 90, 99, 100]), ttft=st.sampled_from([95, 100]))
def test_a_row_holds_the_percentiles_of_all_gaps_and_of_all_first_tokens(arrivals, itl, ttft):
    trace = run(arrivals)
    row = row_of(trace, RunSlo(itl_s=1, ttft_s=1, itl_percentile=itl, ttft_percentile=ttft))
    times = [trace.token_times_s(index) for index in trace.requests["request"]]
    gaps = np.concatenate([np.diff(each) for each in times])
    firsts = [each[0] for each in times] - trace.requests["arrival_s"]
    expected = np.percentile(gaps, itl) if len(gaps) else 0.0
    assert row[f"itl_p{itl}_s"] == pytest.approx(expected, rel=1e-9)
    assert row[f"ttft_p{ttft}_s"] == pytest.approx(np.percentile(firsts, ttft), rel=1e-9)


def blocking_by_walk(trace, cost, scheduler, budget, arrivals):
    """Walks token by token: each gap with a prefill token in it, less its last decodes alone."""
    iterations = trace.iterations
    ends = iterations["end_s"].tolist()
    tokens = {r: [ends.index(t) for t in trace.token_times_s(r)] for r in trace.requests["request"]}
    prompts = dict(zip(trace.requests["request"], trace.requests["num_prompt_tokens"]))
    worst = 0.0
    for at in tokens.values():
        for before, after in zip(at, at[1:]):
            if not iterations["num_prefill_tokens"][before + 1 : after + 1].sum():
                continue
            # who got a token other than its first in this iteration, and how many tokens it had
            held = [
                prompts[r] + mine.index(after) - 1
                for r, mine in tokens.items() if after in mine[1:]
            ]  # fmt: skip
            alone = cost.iteration_s(len(held), int(sum(held)), ())
            worst = max(worst, ends[after] - ends[before] - alone)
    return worst


@settings(max_examples=60, deadline=None)
@given(arrivals=requests, scheduler=st.sampled_from(["token-budget", "prefill-first", "interleaved"]))
def test_blocking_time_is_that_of_a_walk(arrivals, scheduler):
    trace = run(arrivals, scheduler)
    found = max_blocking_time_s(trace, COST)
    assert found == pytest.approx(blocking_by_walk(trace, COST, scheduler, 64, arrivals), abs=1e-12)


def test_a_whole_prompt_blocks_a_stream_for_as_long_as_it_runs():
    cost = FormulaCost()
    trace = run([(0.0, 16, 60), (0.2, 200, 1)], "prefill-first", cost=cost)
    assert max_blocking_time_s(trace, cost) == pytest.approx(
        cost.iteration_s(0, 0, ((None, 200, 0),)), rel=0.02
    )
    alone = run([(0.0, 16, 60)], cost=cost)
    assert max_blocking_time_s(alone, cost) == 0.0


def test_rates_and_goodput_are_those_of_the_metrics():
    trace = run([(0.0, 100, 5), (0.1, 50, 5)])
    row = row_of(trace, RunSlo(itl_s=1), COST, Slo(ttft_s=10))
    span = trace.iterations["end_s"][-1]
    assert row["tokens_per_s"] == pytest.approx(160 / span)
    assert row["goodput_per_s"] == pytest.approx(2 / span)
    assert "max_blocking_time_s" in row and "goodput_per_s" not in row_of(trace, RunSlo(itl_s=1))


def test_a_request_without_a_first_token_is_infinitely_late():
    policy = make_scheduler("token-budget", token_budget=64, max_num_seqs=8)
    workload = Workload([0.0, 0.0], [64, 5000], [2, 2])
    trace = Engine(policy, SimulatedExecutor(COST)).run(workload.source(), until_s=0.05)
    assert row_of(trace, RunSlo(ttft_s=1))["ttft_p99_s"] == math.inf
    assert not keeps(row_of(trace, RunSlo(ttft_s=1)), RunSlo(ttft_s=1))


def test_a_limit_met_exactly_is_kept_and_nan_is_not():
    slo = RunSlo(itl_s=0.1, ttft_s=1.0)
    assert keeps({"itl_p99_s": 0.1, "ttft_p99_s": 1.0}, slo)
    assert not keeps({"itl_p99_s": np.nextafter(0.1, 1), "ttft_p99_s": 1.0}, slo)
    assert not keeps({"itl_p99_s": math.nan, "ttft_p99_s": 1.0}, slo)


def test_a_limit_knows_its_slack():
    (limit,) = limits_of({"itl_p95_s": 0.03}, RunSlo(itl_s=0.04, itl_percentile=95))
    assert limit == Limit("ITL P95", 0.03, 0.04)
    assert limit.slack_s == pytest.approx(0.01) and limit.ratio == pytest.approx(0.75)
    assert say_column("max_blocking_time_s") == "max blocking time"


@pytest.mark.parametrize(
    "limits, problem",
    [
        ({}, r"at least 1 limit of itl_s, ttft_s, max_blocking_time_s, got none: say RunSlo"),
        ({"itl_s": 0}, "itl_s must be finite and > 0 s, got 0: pass seconds"),
        ({"ttft_s": -1.0}, "ttft_s must be finite and > 0 s, got -1.0"),
        ({"max_blocking_time_s": math.nan}, "max_blocking_time_s must be finite and > 0 s, got nan"),
        ({"itl_s": 1, "itl_percentile": 0}, r"itl_percentile must be in \(0, 100\], got 0: 99 is"),
        ({"itl_s": 1, "ttft_percentile": 101}, r"ttft_percentile must be in \(0, 100\], got 101"),
    ],
)
def test_an_slo_that_makes_no_sense_is_refused(limits, problem):
    with pytest.raises(ValueError, match=problem):
        RunSlo(**limits)
