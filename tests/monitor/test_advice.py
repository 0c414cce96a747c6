"""Advice: its direction from the evidence, its number from the cost model, and silence where it has no ground."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit import ChunkedPrefillMonitor
from coursekit.cost import RooflineCost, profiles, recorded_cost
from coursekit.metrics import Slo
from coursekit.monitor import Advice, Estimate, Reading, ServerSettings, Spread, advise
from coursekit.monitor.headroom import Work, budget_that_holds, full_iteration_s, full_share, work_of
from coursekit.monitor.report import describe_counsel
from coursekit.simulate import simulate
from coursekit.workload import Workload, fixed, poisson

A100 = RooflineCost("a100", "llama-2-7b")


def seen(value: float, n: int = 5000, width: float = 0.0) -> Spread:
    point = Estimate(value, value * (1 - width), value * (1 + width))
    return Spread(n, value, point, point, point, point, "test")


def reading(**changes) -> Reading:
    """A server of an A100 that computes prompts beside 10 decodes, all in order."""
    usual = Reading(
        "test", 300.0, itl=seen(0.05), ttft=seen(0.5, 200), queue=seen(0.05, 200),
        iteration_tokens=seen(300), prompt_length=seen(2000, 200), output_length=seen(200, 200),
        num_prefill_tokens=1_500_000, num_output_tokens=40_000, num_preemptions=0, num_running=10.0,
        num_waiting=0.5, kv_usage=0.4, kv_usage_max=0.5, num_kv_tokens=60_000,
    )  # fmt: skip
    return replace(usual, **changes)


SLO = Slo(itl_s=0.1, ttft_s=2.0)
BUDGET = ServerSettings(token_budget=2048, max_num_seqs=64)


def itl_of(budget: int) -> Spread:
    return seen(full_iteration_s(A100, work_of(reading()), budget)[0])


def only(counsel) -> Advice:
    (advice,) = counsel.advice
    return advice


# --- ITL ---


def test_long_gaps_under_prefill_lower_the_budget_to_what_the_cost_model_says_holds():
    advice = only(advise(reading(itl=itl_of(2048)), SLO, BUDGET, A100))
    assert (advice.turn, advice.how) == ("max_num_batched_tokens", "lower")
    work = work_of(reading())
    assert full_iteration_s(A100, work, advice.to)[0] <= 0.1 < full_iteration_s(A100, work, advice.to + 1)[0]
    assert advice.source.startswith(A100.label)


def test_every_advice_names_its_evidence_and_its_source():
    advice = only(advise(reading(itl=itl_of(2048)), SLO, BUDGET, A100))
    assert "over 5,000 gaps; SLO 100 ms" in advice.evidence["ITL P99"]
    assert "at least 14" in advice.evidence["iterations full of prefill"]
    assert "10 decodes" in advice.source and "A100" in advice.source


def test_without_a_cost_model_the_advice_has_a_direction_and_no_number():
    advice = only(advise(reading(itl=seen(0.3)), SLO, BUDGET))
    assert (advice.how, advice.to) == ("lower", None)
    assert "give a cost model" in advice.source


def test_a_cost_model_of_another_server_gives_no_number_and_a_note():
    counsel = advise(reading(itl=seen(3.0)), SLO, BUDGET, A100)
    assert not counsel.advice and any("not a model of this server" in note for note in counsel.notes)


def test_a_model_by_which_the_budget_holds_already_gives_no_number():
    counsel = advise(reading(itl=seen(0.3)), SLO, ServerSettings(token_budget=64), A100)
    assert not counsel.advice and any("not a model of this server" in note for note in counsel.notes)


def test_long_gaps_without_prefill_lower_the_number_of_sequences():
    advice = only(advise(reading(itl=seen(0.3), num_prefill_tokens=1000), SLO, BUDGET, A100))
    assert (advice.turn, advice.how) == ("max_num_seqs", "lower")


def test_decodes_that_alone_break_the_slo_are_told_so():
    slo = Slo(itl_s=0.005)
    long_gaps = reading(itl=itl_of(2048), num_running=60.0)
    work = work_of(long_gaps)
    long_gaps = replace(long_gaps, itl=seen(full_iteration_s(A100, work, 2048)[0]))
    advice = only(advise(long_gaps, slo, BUDGET, A100))
    assert (advice.turn, advice.how) == ("max_num_seqs", "lower")
    assert "decodes alone" in advice.why


def test_few_gaps_give_no_advice_and_say_so():
    counsel = advise(reading(itl=seen(0.3, n=100)), SLO, BUDGET, A100)
    assert not counsel.advice
    assert any("100 gaps were seen, a P99 needs 300" in note for note in counsel.notes)


def test_without_the_budget_the_cause_is_not_guessed():
    counsel = advise(reading(itl=seen(0.3)), SLO, ServerSettings(), A100)
    assert not counsel.advice and any("give the token budget" in note for note in counsel.notes)


@pytest.mark.parametrize("value", [0.09, 0.11])
def test_bounds_around_the_slo_give_no_advice_and_say_so(value):
    counsel = advise(reading(itl=seen(value, width=0.3)), SLO, BUDGET, A100)
    assert not counsel.advice and any("lies within these bounds" in note for note in counsel.notes)


def test_a_cut_finer_than_the_model_is_not_advised():
    work = work_of(reading())
    budget = 1 + budget_that_holds(A100, work, 0.1, 8192)
    near = reading(itl=seen(0.12))
    counsel = advise(near, SLO, ServerSettings(token_budget=budget), A100)
    assert not counsel.advice and any("too near" in note for note in counsel.notes)


def test_gaps_that_keep_the_slo_need_nothing():
    counsel = advise(reading(), SLO, BUDGET, A100)
    assert not counsel.advice and any("keeps the SLO" in note for note in counsel.notes)


# --- Memory ---


def test_preemptions_with_a_full_cache_lower_the_sequences_to_what_fits():
    advice = only(advise(reading(num_preemptions=40, kv_usage_max=0.99), SLO, BUDGET, A100))
    assert (advice.turn, advice.how, advice.to) == ("max_num_seqs", "lower", 60_000 // 2200)
    assert "40 in 300 s" in advice.evidence["preemptions"]


def test_preemptions_without_a_full_cache_are_not_explained():
    counsel = advise(reading(num_preemptions=40, kv_usage_max=0.6), SLO, BUDGET, A100)
    assert not counsel.advice and any("look more often" in note for note in counsel.notes)


# --- Queue ---


def test_a_queue_with_slack_raises_the_budget_to_what_holds():
    slo = Slo(itl_s=0.5, ttft_s=2.0)
    advice = only(advise(reading(queue=seen(1.5, 200)), slo, BUDGET, A100))
    assert (advice.turn, advice.how) == ("max_num_batched_tokens", "raise")
    work = work_of(reading())
    assert advice.to > 2048
    assert full_iteration_s(A100, work, advice.to)[0] <= 0.5 < full_iteration_s(A100, work, advice.to + 1)[0]


def test_a_queue_for_seats_raises_the_sequences():
    slo = Slo(itl_s=0.5, ttft_s=2.0)
    advice = only(advise(reading(queue=seen(1.5, 200), num_running=63.0), slo, BUDGET, A100))
    assert (advice.turn, advice.how) == ("max_num_seqs", "raise")


def test_a_queue_without_slack_needs_another_server():
    advice = only(advise(reading(queue=seen(1.5, 200), itl=seen(0.095)), SLO, BUDGET, A100))
    assert (advice.turn, advice.how) == ("load", "lower")


def test_a_queue_before_a_full_cache_is_left_to_the_memory():
    full = reading(queue=seen(9.0, 200), num_preemptions=10, kv_usage_max=1.0)
    counsel = advise(full, SLO, BUDGET, A100)
    assert only(counsel).turn == "max_num_seqs" and any("see memory" in note for note in counsel.notes)


def test_few_requests_give_no_advice_on_the_queue():
    counsel = advise(reading(queue=seen(9.0, n=5)), SLO, BUDGET, A100)
    assert not counsel.advice and any("5 requests were seen" in note for note in counsel.notes)


# --- All together ---


@pytest.mark.parametrize("cost", [None, A100])
def test_nothing_seen_gives_no_advice_and_says_why(cost):
    counsel = advise(Reading("test", 0.0), SLO, BUDGET, cost)
    assert not counsel.advice and len(counsel.notes) == 3


def test_a_server_that_is_down_gets_no_advice():
    counsel = advise(reading(itl=seen(3.0), is_up=False), SLO, BUDGET, A100)
    assert not counsel.advice and "does not answer" in counsel.notes[0]


def test_advice_is_printed_with_its_evidence():
    text = describe_counsel(advise(reading(itl=itl_of(2048)), SLO, BUDGET, A100))
    assert "* lower max_num_batched_tokens to " in text and "    source: simulated" in text


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    decodes=st.integers(1, 64), context=st.integers(0, 4000), chunk=st.integers(0, 8000),
    itl_s=st.floats(0.01, 1.0), most=st.integers(64, 8192),
)  # fmt: skip
def test_a_budget_that_holds_does_and_the_next_does_not(decodes, context, chunk, itl_s, most):
    work = Work(decodes, decodes * context, chunk)
    found = budget_that_holds(A100, work, itl_s, most)
    if found is None:
        assert most <= decodes or full_iteration_s(A100, work, decodes + 1)[0] > itl_s
        return
    assert decodes < found <= most and full_iteration_s(A100, work, found)[0] <= itl_s
    assert found == most or full_iteration_s(A100, work, found + 1)[0] > itl_s


def test_a_calibrated_cost_is_not_changed_by_asking_and_says_when_it_extrapolates(recwarn):
    name = next(name for name in profiles() if name.endswith("-vllm"))
    cost = recorded_cost(name)
    _, source = full_iteration_s(cost, Work(4, 2000, 500), 512)
    _, beyond = full_iteration_s(cost, Work(4, 2000, 500), 100_000)
    assert "extrapolated" in beyond and "extrapolated" not in source
    assert not cost.extrapolated and not len(recwarn)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="token_budget must be >= 1"):
        ServerSettings(token_budget=0)


# --- Does following it help? On a simulated server, where the answer can be had ---


def served(token_budget: int) -> Reading:
    random = np.random.default_rng(0)
    arrivals = poisson(2.0, 300, seed=1)
    lengths = random.choice([200, 3000], 300)
    trace = simulate(Workload(arrivals, lengths, fixed(300, 150)), token_budget=token_budget, max_num_seqs=64)
    monitor = ChunkedPrefillMonitor()
    monitor.read(trace)
    return monitor.reading()


def test_the_advised_budget_holds_the_slo_that_the_old_one_missed():
    slo, before = Slo(itl_s=0.1), served(4096)
    assert before.itl.p99.value > 0.1
    advice = only(advise(before, slo, ServerSettings(4096, 64), A100))
    assert advice.turn == "max_num_batched_tokens" and advice.to < 4096
    assert served(advice.to).itl.p99.value <= 0.1


def test_how_full_iterations_were_is_a_lower_bound_on_what_the_record_says():
    token_budget = 512
    trace = simulate(
        Workload(poisson(2.0, 100, seed=1), fixed(100, 1500), fixed(100, 50)), token_budget=token_budget
    )
    monitor = ChunkedPrefillMonitor()
    monitor.read(trace)
    found = full_share(monitor.reading(), token_budget)
    with_prefill = (trace.iterations["num_prefill_tokens"] > 0).mean()
    assert 0.5 * with_prefill <= found <= 1.1 * with_prefill
    assert math.isnan(full_share(monitor.reading(), None))
