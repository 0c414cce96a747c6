"""Deciding one iteration ahead: what is known when, and that nothing else changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.ahead import AheadEngine
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter, PrefixCachingBlocks
from coursekit.schedulers import TokenBudget
from coursekit.workload import Workload


class Second:
    """Every iteration takes one second."""

    label = "simulated (a clock)"

    def iteration_s(self, num_decodes, decode_context, chunks):
        return 1.0

    def decode_run_s(self, num_decodes, decode_context, num_iterations):
        return np.ones(num_iterations)


def run(kind, workload, kv=None, **limits):
    scheduler = TokenBudget(limits.get("budget", 64), limits.get("seqs", 8), kv)
    return kind(scheduler, SimulatedExecutor(Second())).run(workload.source())


def test_a_request_alone_is_served_as_without_it():
    workload = Workload([0.5], [100], [5])
    ahead, plain = (run(kind, workload).requests for kind in (AheadEngine, Engine))
    assert ahead["first_token_s"][0] == plain["first_token_s"][0] == 2.5
    assert ahead["finished_s"][0] == plain["finished_s"][0] == 6.5


def test_who_arrives_while_an_iteration_runs_waits_for_one_more():
    workload = Workload([0.0, 2.5], [10, 10], [9, 2])
    assert run(Engine, workload).requests["first_scheduled_s"][1] == 3.0
    assert run(AheadEngine, workload).requests["first_scheduled_s"][1] == 4.0


def test_what_finishes_is_free_an_iteration_later():
    workload = Workload([0.0] * 3, [16, 32, 64], [20, 4, 2])
    for kind, expected in ((Engine, 4.0), (AheadEngine, 5.0)):
        blocks = run(kind, workload, BlockCounter(6, 16)).requests["first_scheduled_s"]
        places = run(kind, workload, seqs=2).requests["first_scheduled_s"]
        assert blocks[2] == places[2] == expected


def test_when_nothing_else_can_run_what_is_held_is_known_at_once():
    workload = Workload([0.0, 0.0], [32, 32], [1, 1])
    requests = run(AheadEngine, workload, BlockCounter(2, 16)).requests
    assert requests["first_scheduled_s"].tolist() == [0.0, 1.0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), caches=st.booleans())
def test_everybody_is_served_under_any_pressure(seed, caches):
    rng = np.random.default_rng(seed)
    prompts, outputs = rng.integers(1, 120, 20), rng.integers(1, 60, 20)
    ids = [rng.integers(0, 3, n).tolist() for n in prompts] if caches else None
    workload = Workload(rng.uniform(0, 30, 20), prompts, outputs, prompt_token_ids=ids)
    kv = (PrefixCachingBlocks if caches else BlockCounter)(14, 16)
    trace = run(AheadEngine, workload, kv)
    assert trace.requests["num_output_tokens"].tolist() == workload.num_output_tokens.tolist()
    assert kv.num_free == 14 and trace.iterations["num_blocks_used"].max() <= 14


def test_a_request_that_can_never_run_is_an_error():
    class Never(TokenBudget):
        def schedule(self):
            batch = super().schedule()
            batch.chunks.clear()
            return batch

    engine = AheadEngine(Never(), SimulatedExecutor(Second()))
    with pytest.raises(RuntimeError, match="requests wait and Never can't run any of them"):
        engine.run(Workload([0.0], [10], [2]).source())
