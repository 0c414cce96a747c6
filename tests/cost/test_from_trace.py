"""A record gives back what the engine ran: checked against what the executor was asked."""

import numpy as np
import pytest

from coursekit.cost import CalibratedCost, RooflineCost
from coursekit.cost.from_trace import measured_iterations
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import TokenBudget
from coursekit.workload import Workload


class Asked(SimulatedExecutor):
    """Keeps every batch that it is asked to run, in the words of a measured iteration."""

    def __init__(self, cost):
        super().__init__(cost)
        self.seen = []

    def execute(self, batch):
        chunks = [(r.index, n, c, r.num_prompt_tokens) for r, n, c in batch.chunks]
        single = [c for _, n, c, prompt in chunks if n == 1 and c >= prompt]
        rest = [chunk[:3] for chunk in chunks if not (chunk[1] == 1 and chunk[2] >= chunk[3])]
        context = batch.decode_context + sum(single)
        self.seen.append((batch.num_decodes + len(single), context, rest))
        return super().execute(batch)


def served(num_blocks: int, seed: int = 0, jump: bool = False):
    generator = np.random.default_rng(seed)
    workload = Workload(
        np.cumsum(generator.exponential(0.05, 30)), generator.integers(1, 300, 30),
        generator.integers(1, 80, 30),
    )  # fmt: skip
    executor = Asked(RooflineCost("a100", "llama-2-7b"))
    scheduler = TokenBudget(128, 12, BlockCounter(num_blocks, 16))
    return Engine(scheduler, executor, jump).run(workload.source()), executor


@pytest.mark.parametrize("num_blocks", [40, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_every_iteration_is_what_the_executor_was_asked(num_blocks, seed):
    trace, executor = served(num_blocks, seed)
    if num_blocks == 40:
        assert trace.iterations["num_preempted"].any()
    found = [(row.num_decodes, row.decode_context, list(row.chunks))
             for row in measured_iterations(trace)]  # fmt: skip
    assert found == executor.seen


def test_jumping_changes_nothing():
    walked, jumped = (measured_iterations(served(1000, jump=jump)[0]) for jump in (False, True))
    assert [row[:3] for row in walked] == [row[:3] for row in jumped]


def test_seconds_are_those_of_the_cost():
    trace, executor = served(1000)
    for row in measured_iterations(trace):
        assert row.seconds == pytest.approx(executor.cost.iteration_s(*row[:3]))


def test_a_cost_can_be_fitted_to_a_record():
    cost = CalibratedCost.fit(measured_iterations(served(1000)[0]))
    assert cost.profile.residuals.median < 0.02
