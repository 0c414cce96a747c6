"""Rules of capacity: their names, their values on records known by hand, and what they refuse."""

import dataclasses

import numpy as np
import pytest

from coursekit.metrics import summarize
from coursekit.optimizers.rules import VIDUR_RULE, CapacityRule, Limit, sarathi_rule
from coursekit.simulate import simulate
from coursekit.trace import REQUESTS, empty_table
from coursekit.workload import Workload, poisson


@pytest.fixture(scope="module")
def trace():
    return simulate(Workload(poisson(3.0, 200), [700] * 200, [30] * 200))


def test_the_names_say_the_limits():
    assert sarathi_rule(0.1).name == "P99 TBT <= 0.1 s and median scheduling delay <= 2 s"
    assert VIDUR_RULE.name == "P99 scheduling delay <= 5 s"


def test_the_values_are_those_of_the_metrics(trace):
    rows = {row["metric"]: row for row in summarize(trace)}
    tbt_s, delay_s = sarathi_rule(0.1).values_s(trace)
    assert tbt_s == pytest.approx(rows["itl_s"]["p99"])
    assert delay_s == pytest.approx(rows["scheduling_delay_s"]["p50"])
    assert VIDUR_RULE.values_s(trace) == pytest.approx([rows["scheduling_delay_s"]["p99"]])


@pytest.mark.parametrize("over", [0.99, 1.01])
def test_a_rule_holds_up_to_its_limit_and_no_further(trace, over):
    tbt_s, _ = sarathi_rule(0.1).values_s(trace)
    assert sarathi_rule(tbt_s * over).holds(trace) == (over > 1)


def test_each_limit_can_break_the_rule(trace):
    tbt_s, delay_s = sarathi_rule(0.1).values_s(trace)
    late = CapacityRule((Limit("itl_s", 99, 2 * tbt_s), Limit("scheduling_delay_s", 50, delay_s / 2)))
    assert sarathi_rule(2 * tbt_s).holds(trace) and not late.holds(trace)


def test_several_records_count_as_one(trace):
    assert sarathi_rule(0.1).values_s(trace, trace) == pytest.approx(
        sarathi_rule(0.1).values_s(trace), rel=1e-2
    )


def test_requests_that_never_began_count_with_the_time_they_waited(trace):
    requests = {name: column.copy() for name, column in trace.requests.items()}
    requests["first_scheduled_s"][-20:] = np.nan
    requests["arrival_s"][-20:] = 0.0
    stuck = dataclasses.replace(trace, requests=requests)
    [delay_s] = VIDUR_RULE.values_s(stuck)
    assert delay_s == pytest.approx(trace.iterations["end_s"][-1])
    assert VIDUR_RULE.holds(trace) and not VIDUR_RULE.holds(stuck)


def test_a_run_of_single_tokens_has_no_gap_to_miss():
    single = simulate(Workload([0.0, 1.0], [100, 100], [1, 1]))
    assert sarathi_rule(1e-6).holds(single)


def test_a_record_without_requests_is_refused(trace):
    empty = dataclasses.replace(trace, requests=empty_table(REQUESTS, 0))
    with pytest.raises(ValueError, match="no requests; capacity needs at least 1"):
        VIDUR_RULE.holds(empty)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Limit("tea_s", 50, 1.0), "metric must be one of .*got 'tea_s'"),
        (lambda: Limit("itl_s", 101, 1.0), "percent must be in 0..100, got 101"),
        (lambda: sarathi_rule(0.0), "most_s must be > 0 s, got 0.0"),
        (lambda: CapacityRule(()), "at least 1 limit, got none"),
    ],
)
def test_what_is_no_rule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
