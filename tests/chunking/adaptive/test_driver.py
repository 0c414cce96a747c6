"""A driven scheduler: its policy's decisions under chosen budgets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coursekit import AdaptiveChunkedPrefill, Engine, SimulatedExecutor
from coursekit.chunking.adaptive import CostInverse, FixedBudget, Prompt
from coursekit.chunking.adaptive.state import look
from coursekit.cost import RooflineCost
from coursekit.kv_cache import BlockCounter, PrefixCachingBlocks
from coursekit.request import Request
from coursekit.schedulers import (
    DecodeFirst,
    InterleavedPrefillDecodeScheduler,
    OrcaMixed,
    PrefillFirst,
    PriorityAwareChunking,
    PriorityTokenBudget,
    StallFree,
    TokenBudget,
)
from coursekit.workload import Workload
from tests.schedulers.checker import Arrival, check
from tests.schedulers.workloads import makers, workloads

BUDGETED = [PriorityAwareChunking, PriorityTokenBudget, StallFree, TokenBudget]
COST = RooflineCost("a100", "llama-2-7b")
thorough = settings(
    max_examples=80, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


class Drawn:
    """Chooses what it was told, in turn, also what is not allowed."""

    def __init__(self, budgets):
        self.budgets, self.states = list(budgets), []

    def choose(self, state):
        self.states.append(state)
        return self.budgets[len(self.states) % len(self.budgets)]

    def observe(self, step):
        pass


def workload(*rows):
    return Workload(*(list(column) for column in zip(*rows)))


ROWS = [(0.0, 900, 40), (0.01, 300, 30), (0.02, 2500, 20), (0.3, 10, 60), (0.31, 1700, 5)]


@pytest.mark.parametrize("policy", BUDGETED, ids=lambda policy: policy.__name__)
@thorough
@given(data=st.data(), workload=workloads)
def test_whatever_is_chosen_every_promise_of_a_scheduler_holds(policy, data, workload):
    budgets = data.draw(st.lists(st.integers(-5, 80), min_size=1, max_size=6))
    least = data.draw(st.integers(1, 20))
    make = data.draw(makers(policy))
    scheduler = AdaptiveChunkedPrefill(make(), Drawn(budgets), min_prefill_tokens=least)
    check(scheduler, workload)


@pytest.mark.parametrize("policy", BUDGETED, ids=lambda policy: policy.__name__)
def test_under_a_constant_controller_the_record_is_the_policys_own(policy):
    source = workload(*ROWS)

    def traced(scheduler):
        return Engine(scheduler, SimulatedExecutor(COST)).run(source.source())

    driven = AdaptiveChunkedPrefill(policy(2048, 8), FixedBudget(300))
    ours, plain = traced(driven), traced(policy(300, 8))
    for table in ("iterations", "chunks", "runs", "requests"):
        for name, column in getattr(plain, table).items():
            other = getattr(ours, table)[name]
            if column.dtype == float:  # the driver's run is walked, the other jumps
                assert np.allclose(column, other, rtol=1e-9, atol=0, equal_nan=True), (table, name)
            else:
                assert np.array_equal(column, other), (table, name)
    assert list(driven.budgets) == [300] * ours.num_iterations


def test_the_simulators_steps_hold_the_target_from_the_first_burst_on():
    rows = [(0.0, 100, 400)] * 8 + [(1.0, 6000, 2)] * 3
    driven = AdaptiveChunkedPrefill(StallFree(8192), CostInverse(COST, 0.05))
    trace = Engine(driven, SimulatedExecutor(COST)).run(workload(*rows).source())
    seconds = trace.iterations["end_s"] - trace.iterations["start_s"]
    assert 0.045 < seconds.max() <= 0.05


def test_a_controller_is_told_each_step_with_what_ran():
    class Listening(FixedBudget):
        steps = []

        def observe(self, step):
            self.steps.append(step)

    driven = AdaptiveChunkedPrefill(StallFree(64), Listening(40))
    trace = Engine(driven, SimulatedExecutor(COST)).run(workload((0.0, 100, 4)).source())
    steps = Listening.steps
    assert [step.num_prefill_tokens for step in steps] == [40, 40, 20, 0, 0, 0]
    assert [step.num_decodes for step in steps] == [0, 0, 0, 1, 1, 1]
    durations = trace.iterations["end_s"] - trace.iterations["start_s"]
    assert np.allclose([step.seconds for step in steps], durations)


def test_the_state_is_what_the_policy_would_serve_next():
    policy = StallFree(64, max_num_seqs=4)
    for index, length in enumerate((10, 100, 30, 40, 50)):
        policy.add_request(Request(index, 0.0, length, 5))
    for _ in range(2):
        policy.update(policy.schedule())
    state = look(policy, 16, 500, 64, None)
    # 10 + 54, then 1 + 46 + 17: two decode, one prompt is on its way, one of two has a place
    assert (state.num_decodes, state.decode_context) == (2, 11 + 100)
    assert state.prompts == (Prompt(13, 17), Prompt(40, 0)) and state.num_waiting == 2
    assert (state.min_budget, state.max_budget, state.token_budget) == (18, 500, 64)
    assert look(policy, 16, 10, 64, None).prompts == (Prompt(13, 17),)  # more can't be used


def test_decodes_outside_the_group_are_seen_as_decodes():
    policy = TokenBudget(64, kv=PrefixCachingBlocks(50, 4))
    policy.add_request(Request(0, 0.0, 8, 5, prompt_token_ids=range(8)))
    policy.update(policy.schedule())
    policy.add_request(Request(1, 0.0, 12, 5, prompt_token_ids=range(12)))
    state = look(policy, 1, 64, 64, None)
    assert (state.num_decodes, state.decode_context) == (1, 8)
    assert state.prompts == (Prompt(4, 8),)  # two blocks of the first are found again


def test_a_budget_that_tiles_would_round_away_is_rounded_up():
    driven = AdaptiveChunkedPrefill(StallFree(256, tile_size=32), FixedBudget(1))
    run = check(driven, [Arrival(0, 100, 3), Arrival(0, 40, 9)])
    assert max(sum(size for _, size, _ in step.chunks) for step in run.steps) == 32


def test_the_modules_calls_work_as_they_stand():
    adaptive = AdaptiveChunkedPrefill(base_chunk_size=512)
    loads = [(2, 0.3, 0.05), (8, 0.6, 0.08), (20, 0.9, 0.15), (50, 0.95, 0.30)]
    names = ("num_decode_requests", "gpu_utilization", "avg_latency")
    sizes = [adaptive.get_chunk_size(dict(zip(names, load))) for load in loads]
    assert sizes == [2048, 512, 256, 128]
    with pytest.raises(ValueError, match="this one runs FixedBudget"):
        AdaptiveChunkedPrefill(controller=FixedBudget(8)).get_chunk_size({})


def test_another_controller_begins_as_at_the_first_step():
    seen = Drawn([20])
    driven = AdaptiveChunkedPrefill(StallFree(64), FixedBudget(10))
    driven.add_request(Request(0, 0.0, 50, 2))
    for _ in range(2):
        batch = driven.schedule()
        driven.observe(batch, 0.1)
        driven.update(batch)
        driven.use(seen)
    assert seen.states[0].last is None and seen.states[0].token_budget == 16


def test_the_record_says_who_was_in_control():
    settings = AdaptiveChunkedPrefill(StallFree(64), CostInverse(COST, 0.2)).settings()
    assert settings["name"] == "AdaptiveChunkedPrefill" and settings["policy"] == "StallFree"
    assert settings["controller"]["name"] == "CostInverse"
    assert settings["controller"]["itl_target_s"] == 0.2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: AdaptiveChunkedPrefill(PrefillFirst(64)), "PrefillFirst runs prompts whole"),
        (lambda: AdaptiveChunkedPrefill(OrcaMixed(64)), "OrcaMixed runs prompts whole"),
        (lambda: AdaptiveChunkedPrefill(DecodeFirst(64)), "DecodeFirst runs prompts whole"),
        (lambda: AdaptiveChunkedPrefill(TokenBudget(64, enable_chunked_prefill=False)), "whole"),
        (lambda: AdaptiveChunkedPrefill(InterleavedPrefillDecodeScheduler()), "no token budget"),
        (lambda: AdaptiveChunkedPrefill(max_token_budget=0), "got 0"),
        (lambda: AdaptiveChunkedPrefill(StallFree(64, tile_size=8), max_token_budget=4), "got 4"),
        (lambda: AdaptiveChunkedPrefill(min_prefill_tokens=0), "min_prefill_tokens must be >= 1"),
        (lambda: setattr(AdaptiveChunkedPrefill(), "token_budget", 5), "chooses.*got 5"),
    ],
)  # fmt: skip
def test_what_can_not_be_driven_is_refused_with_the_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_without_its_floor_a_driver_would_starve_prompts():

    class NoFloor(AdaptiveChunkedPrefill):
        def schedule(self):
            self.policy.token_budget = max(1, self.policy.group.size)
            return self.policy.schedule()

    rows = [Arrival(0, 5, 400), Arrival(1, 30, 5)]
    check(AdaptiveChunkedPrefill(StallFree(64), Drawn([-5])), rows)
    run = check(NoFloor(StallFree(64)), rows)
    assert run.ledgers[1].first_token_step > 350  # only when nobody decoded any more
    patient = check(AdaptiveChunkedPrefill(StallFree(64), Drawn([-5]), min_prefill_tokens=1), rows)
    assert patient.ledgers[1].first_token_step < 40


@pytest.mark.parametrize("blocks", [4, 12])
def test_driven_by_a_full_cache_it_still_ends(blocks):
    policy = StallFree(64, 4, BlockCounter(blocks + 10, 4))
    check(AdaptiveChunkedPrefill(policy, Drawn([3, 60])), [Arrival(0, 20, 12)] * 4)
