"""What holds for every policy, over random workloads, settings and KV caches."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import (
    DecodeFirst,
    OrcaMixed,
    PriorityAwareChunking,
    PriorityTokenBudget,
)
from tests.schedulers.checker import Arrival, check
from tests.schedulers.workloads import CLASSES, OPTIONS, class_settings, makers, workloads

thorough = settings(
    max_examples=150, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
@thorough
@given(data=st.data(), workload=workloads)
def test_every_promise_holds_and_the_same_input_gives_the_same_schedule(policy, data, workload):
    make = data.draw(makers(policy))
    first = check(make(), workload)
    assert check(make(), workload).steps == first.steps


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
def test_a_prompt_longer_than_the_budget_does_not_hang(policy):
    check(policy(8), [Arrival(0, 5, 4), Arrival(0, 100, 3), Arrival(1, 8, 2), Arrival(2, 9, 2)])


classed = st.builds(
    Arrival, step=st.integers(0, 30), num_prompt_tokens=st.integers(1, 60),
    max_tokens=st.integers(1, 4), priority_class=st.sampled_from(CLASSES),
)  # fmt: skip


@thorough
@given(
    st.lists(classed, min_size=1, max_size=25).map(sorted), st.integers(30, 90), class_settings()
)
def test_no_class_waits_longer_than_its_docstring_says(workload, token_budget, own):
    """The bound of `PriorityAwareChunking`: enough places and KV blocks for all."""
    check_waits(PriorityAwareChunking, workload, token_budget, own)


def check_waits(policy, workload: list[Arrival], token_budget: int, own: dict) -> None:
    """AssertionError if anybody waits longer for a first token than the docstring says."""
    run = check(policy(token_budget, **own), workload)
    most = max(own["shares"].values())
    left = token_budget - max(len(step.decoding) for step in run.steps)  # at least
    for arrival, ledger in zip(workload, run.ledgers):
        head_start = (most - own["shares"][arrival.priority_class]) * own["ageing_iterations"]
        bound = sum(
            -(-other.num_prompt_tokens // _least(left, own, other))
            for other, its in zip(workload, run.ledgers)
            if other.step <= arrival.step + head_start and its.first_token_step >= arrival.step
        )
        waited = ledger.first_token_step - arrival.step + 1
        assert waited <= bound, f"{arrival} waited {waited} iterations, {bound} are the most"


def _least(left: int, own: dict, arrival: Arrival) -> int:
    """Tokens that the heaviest request gets at least, of what the decodes leave."""
    return min(own["priority_chunk_sizes"][arrival.priority_class], max(1, left // len(CLASSES)))


class NobodyAges(PriorityAwareChunking):
    """Shares alone: who has waited weighs what it weighed as it came."""

    @property
    def _now(self):
        return 0


class TheHeaviestTakesAll(PriorityAwareChunking):
    """Strict priority by share, and no ageing."""

    def _divide(self, budget, line):
        plan = {}
        for request in sorted(line, key=lambda r: -self.shares[r.priority_class]):
            plan[request] = min(self._wanted(request), budget)
            budget -= plan[request]
        return plan


@st.composite
def crowded_out(draw) -> tuple[list[Arrival], int, dict]:
    """One long prompt of the low class, and soon more of the high class than can ever be served."""
    ageing, high = draw(st.integers(1, 3)), draw(st.integers(4, 9))
    budget = draw(st.integers(9, 30))
    own = {
        "priority_chunk_sizes": {name: draw(st.integers(budget, 60)) for name in CLASSES},
        "shares": {"high": high, "medium": 1, "low": 1}, "ageing_iterations": ageing,
    }  # fmt: skip
    begin = draw(st.integers(0, (high - 1) * ageing + 3))
    low = Arrival(0, draw(st.integers(100, 400)), 1, priority_class="low")
    length = draw(st.integers(budget, 2 * budget))
    crowd = [Arrival(begin + k, length, 1, priority_class="high") for k in range(60)]
    return [low, *crowd], budget, own


@settings(thorough, max_examples=60)
@given(crowded_out())
def test_nobody_is_crowded_out_for_longer_than_that_either(case):
    check_waits(PriorityAwareChunking, *case)


@pytest.mark.parametrize("fault", [NobodyAges, TheHeaviestTakesAll])
def test_the_bound_catches_a_policy_that_does_not_age(fault):
    @settings(thorough, max_examples=60, phases=[Phase.generate])
    @given(crowded_out())
    def bound_holds(case):
        check_waits(fault, *case)

    with pytest.raises(AssertionError, match="are the most"):
        bound_holds()


CROWD = [Arrival(0, 20, 12), Arrival(0, 20, 12), Arrival(1, 20, 12), Arrival(2, 8, 12)]


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
def test_short_of_blocks_some_policies_preempt_and_some_set_blocks_aside(policy):
    run = check(policy(30, kv=BlockCounter(15, block_size=4)), CROWD)
    preempted = sum(ledger.preempted for ledger in run.ledgers)
    assert (preempted == 0) == (policy in (DecodeFirst, OrcaMixed)), f"{preempted} preempted"


def test_by_priority_a_step_may_preempt_and_compute_nothing_and_all_still_finish():
    """As vLLM does: the request whose turn it is has the greatest value and preempts itself."""
    scheduler = PriorityTokenBudget(20, kv=BlockCounter(17, block_size=1))
    run = check(scheduler, [Arrival(0, 9, 8, priority=1), Arrival(1, 1, 12, priority=0)])
    empty = [step for step in run.steps if not step.decoding and not step.chunks]
    assert [step.preempted for step in empty] == [(0,)]
