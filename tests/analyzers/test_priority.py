"""Priority classes: what the tables say, the bound on waits, and that broken bounds are seen."""

import numpy as np
import pytest

from coursekit import Engine, SimulatedExecutor
from coursekit.analyzers import priority
from coursekit.analyzers.priority import (
    class_rows,
    class_table,
    compare_policies,
    findings,
    mixed_workload,
    waits_and_bounds,
)
from coursekit.cost import RooflineCost
from coursekit.schedulers import PriorityAwareChunking, StallFree
from coursekit.workload import Workload

COST = RooflineCost("a100", "llama-2-7b")


@pytest.fixture(scope="module")
def runs():
    return compare_policies(mixed_workload(n=400), COST)


@pytest.fixture(scope="module")
def rows(runs):
    return {(row.policy, row.priority_class): row for row in class_rows(runs)}


def test_small_chunks_slow_their_own_first_token_and_shorten_the_steps_of_others(rows):
    one, sized = rows["one size", "high"], rows["module's sizes", "high"]
    assert sized.ttft_p50_s > 1.05 * one.ttft_p50_s
    assert sized.beside_p50_s < 0.95 * one.beside_p50_s


def test_shares_with_ageing_mend_it(rows):
    one, shared = rows["one size", "high"], rows["shares with ageing", "high"]
    assert shared.ttft_p50_s < 0.95 * one.ttft_p50_s and shared.ttft_p99_s < one.ttft_p99_s


def test_the_table_counts_each_request_and_each_gap_once(runs, rows):
    for run in runs:
        mine = [row for row in rows.values() if row.policy == run.name]
        assert sum(row.n for row in mine) == 400
        outputs = run.trace.requests["num_output_tokens"]
        assert sum(row.num_itls for row in mine) == (outputs - 1).sum()
    assert class_table(runs).shape == (9, 9)


def test_the_longest_wait_is_within_its_bound(runs):
    for run in runs:
        assert (run.waits >= 1).all() and (run.waits <= run.bounds).all()
    low = runs[-1].trace.requests["priority_class"] == "low"
    assert (runs[-1].waits[low] / runs[-1].bounds[low]).max() > 0.05  # a bound worth stating


def test_waits_and_bounds_by_hand():
    sizes, shares = {"a": 100, "b": 100}, {"a": 3, "b": 1}
    policy = PriorityAwareChunking(
        100, priority_chunk_sizes=sizes, shares=shares, ageing_iterations=2
    )
    workload = Workload([0.0, 0.0], [300, 200], [1, 1], priority_class=["b", "a"])
    trace = Engine(policy, SimulatedExecutor(COST)).run(workload.source())
    waits, bounds = waits_and_bounds(trace)
    # b has a quarter of the first two iterations and the rest of the third; both may be outweighed
    # by all that is there, at 50 tokens an iteration: ceil(300/50) + ceil(200/50)
    assert waits.tolist() == [5, 3] and bounds.tolist() == [10, 10]


def test_a_planted_fault_breaks_the_bound_and_the_findings_say_so():
    class Strict(PriorityAwareChunking):
        def _divide(self, budget, line):
            plan = {}
            for request in sorted(line, key=lambda r: -self.shares[r.priority_class]):
                plan[request] = min(self._wanted(request), budget)
                budget -= plan[request]
            return plan

    n = 400
    classes = ["low", *["high"] * n]
    arrivals = [0.0, *np.arange(n) * 0.02]
    workload = Workload(arrivals, [4000, *[1000] * n], [1] * (n + 1), priority_class=classes)
    policy = Strict(512, 512, ageing_iterations=1)
    trace = Engine(policy, SimulatedExecutor(COST)).run(workload.source())
    waits, bounds = waits_and_bounds(trace)
    assert waits[0] > bounds[0]
    run = priority.PriorityRun("shares with ageing", trace, waits, bounds)
    assert "1 requests break their bound" in priority._starvation(run)


def test_the_findings_are_the_numbers_of_the_data(runs, rows):
    text = findings(runs)
    one, sized = rows["one size", "high"], rows["module's sizes", "high"]
    assert f"grows by {sized.ttft_p50_s / one.ttft_p50_s - 1:.0%} at the median" in text
    assert f"({one.n} requests)" in text and "of its bound" in text
    swapped = [runs[1], runs[0], runs[2]]
    swapped = [
        priority.PriorityRun(name, run.trace, run.waits, run.bounds)
        for name, run in zip(priority.POLICIES, swapped)
    ]
    assert "serves whoever decodes" in text and "serves whoever" not in findings(swapped)


def test_where_the_bound_does_not_hold_it_is_not_computed():
    workload = mixed_workload(n=30)

    def trace(policy):
        return Engine(policy, SimulatedExecutor(COST)).run(workload.source())

    with pytest.raises(ValueError, match="2 of max_num_seqs 2 ran at once"):
        waits_and_bounds(trace(PriorityAwareChunking(512, 2)))
    with pytest.raises(ValueError, match="the record is of StallFree"):
        waits_and_bounds(trace(StallFree(512)))
    policy = PriorityAwareChunking(512)
    long = Workload([0.0], [6000], [2])
    cut = Engine(policy, SimulatedExecutor(COST)).run(long.source(), until_s=0.05)
    with pytest.raises(ValueError, match="1 requests have no first token yet"):
        waits_and_bounds(cut)
