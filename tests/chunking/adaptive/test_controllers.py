"""Controllers alone: from a state to a budget, and what they learn from steps."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.chunking.adaptive import (
    Aimd,
    CostInverse,
    FixedBudget,
    ModuleHeuristic,
    Prompt,
    RanStep,
    SystemState,
    make_controller,
)
from coursekit.chunking.adaptive.controllers import OPTIONS
from coursekit.chunking.adaptive.cost_inverse import fill, largest, peak
from coursekit.cost import RooflineCost, profiles, recorded_cost

PROFILE = "amd-epyc-2-cores/smollm2-135m-instruct-vllm"
COSTS = [recorded_cost(PROFILE), RooflineCost("a100", "llama-2-7b")]
quick = settings(max_examples=100, deadline=None, derandomize=True)
ignore = pytest.mark.filterwarnings("ignore:.*asked beyond what was measured")


@st.composite
def states(draw, most=2000) -> SystemState:
    num_decodes = draw(st.integers(0, 64))
    prompts = st.builds(Prompt, st.integers(1, 3000), st.integers(0, 4000))
    max_budget = draw(st.integers(num_decodes + 16, most))
    min_budget = num_decodes + draw(st.integers(1, 16))
    budget = draw(st.integers(min_budget, max_budget))
    return SystemState(
        num_decodes, num_decodes * draw(st.integers(0, 500)),
        tuple(draw(st.lists(prompts, max_size=4))), draw(st.integers(0, 5)),
        min_budget, max_budget, budget, draw(st.none() | ran_steps(budget)),
    )  # fmt: skip


def ran_steps(budget: int):
    return st.builds(
        lambda seconds, decodes, size: RanStep(
            seconds, decodes, 100 * decodes, ((None, size, 50),) if size else (), budget
        ),
        st.floats(1e-3, 5), st.integers(1, budget), st.integers(0, budget),
    )  # fmt: skip


def controllers(target_s: float = 0.1):
    cost = st.sampled_from(COSTS)
    return st.one_of(
        st.builds(FixedBudget, st.integers(1, 5000)),
        st.builds(ModuleHeuristic, st.integers(1, 9000), st.sampled_from([None, target_s])),
        st.builds(Aimd, st.just(target_s), st.integers(1, 5000), st.integers(1, 500)),
        st.builds(CostInverse, cost, st.just(target_s), efficient=st.booleans()),
    )  # fmt: skip


@ignore
@quick
@given(st.data(), states(), controllers())
def test_a_budget_is_within_its_bounds_and_choosing_changes_nothing(data, state, controller):
    for step in data.draw(st.lists(ran_steps(100), max_size=4)):
        controller.observe(step)
    chosen = controller.choose(state)
    assert state.min_budget <= chosen <= state.max_budget and isinstance(chosen, int)
    assert controller.choose(state) == chosen


@ignore
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: type(cost).__name__)
@quick
@given(state=states(), target_s=st.floats(0.005, 1.0), error=st.floats(0.5, 2.0))
def test_the_inverse_is_exact(cost, state, target_s, error):
    controller = CostInverse(cost, target_s)
    controller.model_error = error
    chosen = controller.choose(state)

    def takes(budget):
        chunks = fill(state.prompts, budget - state.num_decodes)
        return error * cost.iteration_s(state.num_decodes, state.decode_context, chunks)

    assert chosen == state.min_budget or takes(chosen) <= target_s
    assert chosen == state.max_budget or takes(chosen + 1) > target_s


@ignore
@quick
@given(states(), st.sampled_from(COSTS), st.lists(st.floats(0.005, 1.0), min_size=2, max_size=2))
def test_a_longer_target_gives_no_smaller_budget(state, cost, targets_s):
    short_s, long_s = sorted(targets_s)
    for make in (lambda t: CostInverse(cost, t), Aimd):
        assert make(short_s).choose(state) <= make(long_s).choose(state)


@ignore
@quick
@given(states(), st.sampled_from(COSTS), st.floats(0.005, 1.0))
def test_the_efficient_budget_holds_the_target_and_is_predicted_to_be_no_slower(
    state, cost, target_s
):
    plain, efficient = CostInverse(cost, target_s), CostInverse(cost, target_s, efficient=True)
    most, chosen = plain.choose(state), efficient.choose(state)

    def rate(budget):
        return (budget - state.num_decodes) / plain.predict_s(state, budget)

    assert chosen <= most and rate(chosen) >= rate(most)


def test_the_efficient_budget_finds_the_knee_of_a_device():
    cost = recorded_cost(PROFILE)
    state = SystemState(4, 400, (Prompt(1000, 0),), 0, 20, 1000, 1000)
    assert CostInverse(cost, 0.5, efficient=True).choose(state) == cost.profile.knee_tokens


@quick
@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 700))
def test_largest_finds_the_end_of_what_holds(low, more, end):
    found = largest(lambda place: place <= end, low, low + more)
    assert found == max(low, min(end, low + more))


@quick
@given(st.integers(0, 50), st.integers(0, 400), st.floats(-20, 500))
def test_peak_finds_the_top(low, more, top):
    found = peak(lambda place: -abs(place - top), low, low + more)
    assert abs(found - top) == min(abs(each - top) for each in range(low, low + more + 1))


def test_prompts_are_filled_in_order_and_the_last_goes_on():
    prompts = (Prompt(10, 5), Prompt(20, 0))
    assert fill(prompts, 4) == [(None, 4, 5)]
    assert fill(prompts, 10) == [(None, 10, 5)]
    assert fill(prompts, 500) == [(None, 10, 5), (None, 490, 0)]
    assert fill((), 7) == [(None, 7, 0)] and fill(prompts, 0) == []


def test_a_later_chunk_of_a_prompt_is_given_a_smaller_budget():
    controller = CostInverse(COSTS[1], 0.05)
    budgets = [
        controller.choose(SystemState(8, 8000, (Prompt(9000, context),), 0, 24, 4096, 4096))
        for context in (0, 20_000, 60_000)
    ]
    assert budgets == sorted(budgets, reverse=True) and budgets[0] > 1.3 * budgets[2]


def ran(controller: CostInverse, slower: float, size: int = 200) -> RanStep:
    chunks = ((None, size, 0),)
    seconds = slower * controller.cost.iteration_s(4, 400, chunks)
    return RanStep(seconds, 4, 400, chunks, size + 4)


def test_a_device_that_became_slower_is_followed_and_faster_again_more_slowly():
    controller = CostInverse(COSTS[0], 0.1)
    for _ in range(40):
        controller.observe(ran(controller, 1.5))
    assert controller.model_error == pytest.approx(1.5, rel=0.02)
    controller.observe(ran(controller, 1.0))
    assert controller.model_error > 1.45
    for _ in range(400):
        controller.observe(ran(controller, 1.0))
    assert controller.model_error == pytest.approx(1.0, rel=0.02)


def test_one_hiccup_moves_the_factor_by_little():
    controller = CostInverse(COSTS[0], 0.1)
    controller.observe(ran(controller, 50.0))
    assert controller.model_error < 1.25


def test_a_step_far_below_the_target_teaches_less_than_one_near_it():
    near, far = CostInverse(COSTS[0], 0.1), CostInverse(COSTS[0], 10.0)
    for controller in (near, far):
        controller.observe(ran(controller, 1.5))
    assert 1 < far.model_error < 1.01 < 1.05 < near.model_error


def test_the_callers_cost_is_not_marked_by_questions_to_the_controller():
    cost = recorded_cost(PROFILE)
    with pytest.warns(UserWarning, match="asked beyond"):
        CostInverse(cost, 9.0).choose(SystemState(0, 0, (), 0, 16, 4096, 4096))
    assert not cost.extrapolated


def test_aimd_adds_backs_off_and_concludes_nothing_from_steps_without_prompts():
    aimd = Aimd(0.1, start=100, increase=16, decrease=0.7, slack=0.1)

    def after(seconds, chunk, budget=200):
        last = RanStep(seconds, 20, 0, ((None, chunk, 0),) if chunk else (), budget)
        return aimd.choose(SystemState(20, 0, (), 0, 36, 4096, budget, last))

    assert aimd.choose(SystemState(0, 0, (), 0, 16, 4096, 2048)) == 100
    assert after(0.05, 180) == 216 and after(0.11, 180) == 140
    assert after(0.095, 180) == 200  # near enough
    assert after(0.05, 100) == 200  # it did not need its budget
    assert after(0.5, 0) == 200
    assert after(0.5, 20, budget=40) == 36  # never under what decodes and prompts need


# chunk sizes by the module's own code, section 3.2, base 512, for its four scenarios
MODULE = [((2, 0.3), 2048), ((8, 0.6), 512), ((20, 0.9), 256), ((50, 0.95), 128)]


@pytest.mark.parametrize("load, size", MODULE)
def test_the_heuristic_has_the_modules_thresholds(load, size):
    state = {"num_decode_requests": load[0], "gpu_utilization": load[1], "avg_latency": 9.0}
    assert ModuleHeuristic(512).get_chunk_size(state) == size


def test_the_heuristic_with_a_target_halves_chunks_while_latency_is_over_it():
    heuristic = ModuleHeuristic(512, itl_target_s=0.1)
    sizes = [
        heuristic.get_chunk_size(
            {"num_decode_requests": 5, "gpu_utilization": 0.7, "avg_latency": latency}
        )
        for latency in (0.1, 0.11)
    ]
    assert sizes == [512, 256] and heuristic.current_chunk_size == 256


def test_in_an_engine_the_heuristics_latency_is_a_mean_of_steps():
    heuristic = ModuleHeuristic(512, itl_target_s=0.1)
    state = SystemState(5, 0, (), 0, 21, 4096, 700)
    budgets = []
    for seconds in (0.05, 0.2, 0.2):
        heuristic.observe(RanStep(seconds, 5, 0, ((None, 485, 0),), 700))
        budgets.append(heuristic.choose(state))
    assert budgets == [517, 261, 261]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FixedBudget(0), "token_budget must be >= 1, got 0"),
        (lambda: ModuleHeuristic(0), "base_chunk_size must be >= 1, got 0"),
        (lambda: ModuleHeuristic(itl_target_s=0), "itl_target_s must be > 0 s, or None, got 0"),
        (lambda: Aimd(math.nan), "itl_target_s must be > 0 s, got nan"),
        (lambda: Aimd(0.1, start=0), "must be >= 1, got 0 and 16"),
        (lambda: Aimd(0.1, decrease=1.0), r"decrease must be in \(0, 1\).*got 1.0"),
        (lambda: CostInverse(COSTS[0], -1), "itl_target_s must be > 0 s, got -1"),
        (lambda: CostInverse(COSTS[0], 0.1, up=1.5), "got 1.5 and 0.03"),
        (lambda: make_controller("pid"), "unknown controller 'pid'; known: aimd, cost-inverse"),
        (lambda: make_controller("cost-inverse", itl_target_s=0.1), "needs a profile, got none"),
        (lambda: make_controller("aimd"), "can't be made of the options"),
        (lambda: make_controller("cost-inverse", "tpu/x"), "unknown profile 'tpu/x'"),
    ],
)  # fmt: skip
def test_what_is_out_of_range_is_refused_with_value_and_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_controller_is_made_of_plain_values_by_name_or_path():
    by_name = make_controller("cost-inverse", PROFILE, itl_target_s=0.2)
    by_path = make_controller("cost-inverse", str(profiles()[PROFILE]), itl_target_s=0.2)
    state = SystemState(4, 400, (), 0, 20, 1000, 1000)
    assert by_name.choose(state) == by_path.choose(state)
    assert {"controller", "min_prefill_tokens", "profile", "itl_target_s"} < set(OPTIONS)
