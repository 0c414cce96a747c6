"""The loop over a pipeline: with one lane and stage the plain loop, with more of them bubbles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.cost import RooflineCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.metrics import summarize
from coursekit.pipeline import PipelineEngine
from coursekit.schedulers import OrcaMixed, PrefillFirst, StallFree
from coursekit.trace import TABLES
from coursekit.workload import Workload, poisson

POLICIES = (PrefillFirst, OrcaMixed, StallFree)
COST = RooflineCost("a100", "llama-2-7b")


class Constant:
    """A second per iteration, and one more for each prompt token over ten."""

    label = "simulated (constant)"

    def iteration_s(self, num_decodes, decode_context, chunks):
        return 1.0 + sum(max(size - 10, 0) for _, size, _ in chunks)


@st.composite
def crowds(draw):
    """A few requests of mixed lengths, close together."""
    n = draw(st.integers(1, 25))
    tokens = st.lists(st.integers(1, 900), min_size=n, max_size=n)
    outputs = st.lists(st.integers(1, 40), min_size=n, max_size=n)
    return Workload(poisson(draw(st.floats(0.5, 50)), n, n), draw(tokens), draw(outputs))


@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=25, deadline=None)
@given(workload=crowds(), blocks=st.integers(60, 200))
def test_one_lane_and_one_stage_are_the_plain_loop(policy, workload, blocks):
    def scheduler():
        return policy(2048, 8, BlockCounter(blocks))

    plain = Engine(scheduler(), SimulatedExecutor(COST), jump=False).run(workload.source())
    [lane] = PipelineEngine([scheduler()], [COST]).run(workload.source())
    for name in TABLES:
        ours, theirs = getattr(lane, name), getattr(plain, name)
        assert all(np.array_equal(ours[c], theirs[c], equal_nan=ours[c].dtype.kind == "f")
                   for c in theirs), name  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(workload=crowds(), stages=st.integers(1, 4), policy=st.sampled_from(POLICIES))
def test_every_request_is_served_whole_and_by_one_lane(workload, stages, policy):
    schedulers = [policy(2048, 4, BlockCounter(80)) for _ in range(stages)]
    engine = PipelineEngine(schedulers, [COST] * stages)
    traces = engine.run(workload.source())
    served = np.concatenate([trace.requests["request"] for trace in traces])
    assert sorted(served) == list(range(len(workload)))
    for trace in traces:
        assert not np.isnan(trace.requests["finished_s"]).any()
        wanted = workload.num_output_tokens[trace.requests["request"]]
        assert (trace.requests["num_output_tokens"] == wanted).all()
    end_s = max(trace.iterations["end_s"].max(initial=0) for trace in traces)
    assert all(busy_s <= end_s * (1 + 1e-12) for busy_s in engine.busy_s)


def test_two_stages_in_step_give_each_lane_a_token_every_two_seconds_and_no_bubble():
    workload = Workload([0.0, 0.0], [5, 5], [50, 50])
    engine = PipelineEngine([StallFree(64), StallFree(64)], [Constant(), Constant()])
    traces = engine.run(workload.source())
    for trace in traces:
        itl = next(row for row in summarize(trace) if row["metric"] == "itl_s")
        assert (itl["p50"], itl["max"]) == (2.0, 2.0)
    assert engine.busy_s == [100.0, 100.0]
    assert max(trace.iterations["end_s"][-1] for trace in traces) == 101.0  # one to fill it


def test_a_long_batch_holds_up_the_other_lane_and_leaves_a_bubble():
    workload = Workload([0.0, 0.0, 20.5], [5, 5, 30], [50, 50, 2])
    engine = PipelineEngine([StallFree(64), StallFree(64)], [Constant(), Constant()])
    traces = engine.run(workload.source())
    worst = [next(r for r in summarize(t) if r["metric"] == "itl_s")["max"] for t in traces]
    # 21 s in each stage: the lane with the prompt waits for both, the other one for the first
    assert max(worst) == 42.0 and min(worst) >= 21.0
    assert max(t.iterations["end_s"][-1] for t in traces) - engine.busy_s[1] > 20.0


def test_sending_from_stage_to_stage_delays_a_batch_by_its_tokens():
    workload = Workload([0.0], [10], [1])
    engine = PipelineEngine([StallFree(64)], [Constant(), Constant()], send_s=0.1)
    [trace] = engine.run(workload.source())
    assert trace.iterations["end_s"][0] == pytest.approx(3.0)


def test_it_stops_at_the_time_limit_with_the_rest_unfinished():
    workload = Workload([0.0, 500.0], [5, 5], [1000, 5])
    [trace] = PipelineEngine([StallFree(64)], [Constant()]).run(workload.source(), until_s=100.0)
    assert trace.num_requests == 1 and np.isnan(trace.requests["finished_s"]).all()
    assert trace.iterations["start_s"].max() < 100.0


def test_requests_that_can_t_run_are_an_error_and_not_a_hang():
    class Refuses(StallFree):
        def schedule(self):
            from coursekit.batch import Batch

            return Batch()

    engine = PipelineEngine([Refuses(64)], [Constant()])
    with pytest.raises(RuntimeError, match="1 requests wait and Refuses can't run"):
        engine.run(Workload([0.0], [5], [5]).source())


@pytest.mark.parametrize("schedulers, stages", [([], [Constant()]), ([StallFree(64)], [])])
def test_a_pipeline_without_parts_is_refused(schedulers, stages):
    with pytest.raises(ValueError, match="at least 1 scheduler and 1 stage"):
        PipelineEngine(schedulers, stages)
