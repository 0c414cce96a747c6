"""Chunks without mixed batches: a policy that keeps the invariants of all, in turns."""

from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.experiments.sarathi_prefills import ChunksInTurn, chunking_overhead
from coursekit.kv_cache import BlockCounter
from coursekit.workload import Workload
from tests.experiments.test_sarathi import DEPLOYMENTS, sarathi
from tests.schedulers.checker import check
from tests.schedulers.workloads import kv_sizes, workloads


@settings(max_examples=60, deadline=None)
@given(workload=workloads, budget=st.integers(1, 60), seats=st.integers(1, 10), kv=kv_sizes())
def test_chunks_in_turn_serve_everybody_and_keep_the_limits(workload, budget, seats, kv):
    check(ChunksInTurn(budget, seats, BlockCounter(*kv)), workload)


def test_an_iteration_is_chunks_or_decodes_and_they_take_turns():
    [cost] = sarathi.stage_costs(DEPLOYMENTS["yi-34b"])
    workload = Workload([0.0, 0.5], [100, 4000], [100, 5])
    trace = Engine(ChunksInTurn(512), SimulatedExecutor(cost)).run(workload.source())
    prefill, decode = (trace.iterations[f"num_{kind}_tokens"] > 0 for kind in ("prefill", "decode"))
    assert not (prefill & decode).any()
    begun = int(prefill.nonzero()[0][1])  # of the long prompt, beside a request that decodes
    assert prefill[begun : begun + 15].tolist() == [True, False] * 7 + [True]


def test_small_chunks_cost_more_than_one_shot():
    ratios = [chunking_overhead(4095, size) for size in (256, 512, 1024, 4095)]
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] == 1.0 < ratios[0]
