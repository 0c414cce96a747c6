"""Recommendations: what the optimizer finds, within what the KV cache and vLLM allow, or nothing at all."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.cost import RooflineCost
from coursekit.deploy import recommend
from coursekit.deploy.recommendation import nearest
from coursekit.deploy.recommender import ADAPTER, MOST_SEQS, SCHEDULERS
from coursekit.deploy.site import mean_length, site_of
from coursekit.optimizers import RunSlo
from coursekit.optimizers.objective import keeps, row_of
from coursekit.optimizers.simulated import Simulation
from coursekit.simulate import num_blocks_that_fit
from coursekit.workload import Workload, poisson
from tests.optimizers.noisy_engine import load

LOAD = load(20, 43, kind="documents")
PROFILE = "amd-epyc-2-cores/smollm2-135m-instruct-vllm"


def chats(n=40, rate_per_s=20.0, prompt=400, output=60):
    return Workload(poisson(rate_per_s, n, 3), np.full(n, prompt), np.full(n, output))


def rerun(found, workload, slo):
    """The row of a recommendation simulated again, from its settings alone."""
    args = found.config.engine_args
    cap = args["long_prefill_token_threshold"]
    simulation = Simulation(
        RooflineCost("a100", "llama-2-7b"), "token-budget", "chunk_size" if cap else "token_budget",
        args["max_num_batched_tokens"], args["max_num_seqs"], num_blocks_that_fit("a100", "llama-2-7b", 16),
    )  # fmt: skip
    return row_of(simulation.run(workload, cap or args["max_num_batched_tokens"]), slo)


@pytest.mark.parametrize("itl_s", [0.03, 0.06, 0.2])
def test_what_is_recommended_keeps_the_slo_and_gives_the_most(itl_s):
    slo = RunSlo(itl_s=itl_s)
    found = recommend(LOAD, slo)
    row = rerun(found, LOAD, slo)
    assert keeps(row, slo)
    table = found.answer.table
    assert row["tokens_per_s"] >= table["value"][table["feasible"]].max() * (1 - 1e-9)
    assert found.label == RooflineCost("a100", "llama-2-7b").label


def test_each_reason_says_what_decided():
    found = recommend(LOAD, RunSlo(itl_s=0.06))
    budget, seats = found.config["max_num_batched_tokens"], found.config["max_num_seqs"]
    assert budget.reason.startswith(found.answer.explain())
    assert "What binds is ITL P99" in budget.reason and budget.source.startswith("simulated (")
    tokens = num_blocks_that_fit("a100", "llama-2-7b", 16) * 16
    assert f"{tokens:,} tokens" in seats.reason and f"{found.num_preemptions:,} preemptions" in seats.reason
    assert "no cap: the best of" in found.config["long_prefill_token_threshold"].reason
    assert found.label in found.config.rationale


@pytest.mark.parametrize("num_blocks", [300, 2000])
def test_no_more_requests_at_once_than_the_kv_cache_holds(num_blocks):
    found = recommend(chats(), RunSlo(itl_s=0.1), num_blocks=num_blocks)
    assert found.config.engine_args["max_num_seqs"] == num_blocks * 16 // 460
    assert found.config["max_num_seqs"].source == "the caller's num_blocks"


def test_plenty_of_memory_is_not_a_reason_for_more_than_vllms_default():
    found = recommend(chats(prompt=20, output=5), RunSlo(itl_s=1), token_budgets=(1024,))
    assert found.config.engine_args["max_num_seqs"] == MOST_SEQS


@settings(max_examples=15, deadline=None)
@given(
    st.integers(40, 3000), st.integers(2, 60), st.floats(0.02, 0.5),
    st.sampled_from([(16, 64, 512), (64, 1024), (8,)]), st.sampled_from(SCHEDULERS),
)  # fmt: skip
def test_vllms_rules_hold_whatever_is_asked(num_blocks, output, itl_s, budgets, scheduler):
    found = recommend(
        chats(12, prompt=500, output=output), RunSlo(itl_s=itl_s), scheduler=scheduler,
        num_blocks=num_blocks, token_budgets=budgets,
    )  # fmt: skip
    if not found.feasible:
        return
    args = found.config.engine_args
    assert args["max_num_batched_tokens"] in budgets
    assert 1 <= args["max_num_seqs"] <= args["max_num_batched_tokens"]
    assert args["long_prefill_token_threshold"] < args["max_num_batched_tokens"]
    assert args["max_model_len"] <= num_blocks * 16


def test_nothing_is_picked_where_nothing_keeps_the_slo():
    slo = RunSlo(itl_s=0.006, ttft_s=0.5)
    found = recommend(LOAD, slo)
    assert not found.feasible and found.config is None and found.capped is None
    text = found.explain()
    assert text.startswith("No configuration.") and "Nearest SLO that can be kept: RunSlo(" in text
    assert found.nearest.slo.itl_s > slo.itl_s and f"itl_s={found.nearest.slo.itl_s:g}" in text
    again = recommend(LOAD, found.nearest.slo)
    assert again.feasible and f"by a token budget of {found.nearest.token_budget:,}" in text


def test_a_limit_that_is_kept_stays_in_the_nearest_slo():
    found = recommend(LOAD, RunSlo(itl_s=0.006, ttft_s=1000))
    assert found.nearest.slo.ttft_s == 1000


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-4, 0.01), st.floats(1e-3, 0.2))
def test_the_nearest_slo_can_always_be_kept(itl_s, ttft_s):
    found = recommend(LOAD, RunSlo(itl_s=itl_s, ttft_s=ttft_s), token_budgets=(64, 512, 2048))
    assert found.feasible or recommend(LOAD, found.nearest.slo, token_budgets=(64, 512, 2048)).feasible


def test_where_the_arrivals_are_the_limit_it_is_said():
    found = recommend(chats(rate_per_s=0.5), RunSlo(itl_s=0.2))
    assert "the arrivals are the limit, not the budget" in found.config["max_num_batched_tokens"].reason
    busy = recommend(LOAD, RunSlo(itl_s=0.06))
    assert "the arrivals are the limit" not in busy.config["max_num_batched_tokens"].reason


def behind_a_huge_prompt(n=30):
    """One huge prompt, and right behind it many short ones."""
    prompts, outputs = np.r_[3900, np.full(n, 20)], np.full(n + 1, 8)
    return Workload(np.r_[0.0, np.linspace(0.01, 0.1, n)], prompts, outputs)


def test_a_cap_is_set_where_it_brings_more():
    """The TTFT of each short request counts, and only a cap lets them pass the long prompt."""
    workload, slo = behind_a_huge_prompt(), RunSlo(itl_s=1, ttft_s=0.25, ttft_percentile=1)
    found = recommend(workload, slo, objective="goodput", token_budgets=(512,))
    cap = found.config["long_prefill_token_threshold"]
    assert 0 < cap.value < 512 and "without a cap" in cap.reason
    assert found.capped.value > 1.01 * found.answer.value and keeps(rerun(found, workload, slo), slo)


def test_a_cap_can_keep_an_slo_that_no_budget_keeps():
    workload, slo = behind_a_huge_prompt(), RunSlo(itl_s=1, ttft_s=0.2, ttft_percentile=90)
    found = recommend(workload, slo, token_budgets=(256, 512))
    assert not found.answer.feasible and found.feasible
    args = found.config.engine_args
    assert 0 < args["long_prefill_token_threshold"] < args["max_num_batched_tokens"]
    assert keeps(rerun(found, workload, slo), slo)
    assert "With a cap on one request" in found.config["max_num_batched_tokens"].reason
    assert "without a cap no budget keeps the SLO" in found.config["long_prefill_token_threshold"].reason


def test_our_policies_bring_what_vllm_needs_for_them():
    args = recommend(LOAD, RunSlo(itl_s=0.06), scheduler="stall-free").config.engine_args
    assert args["scheduler_cls"] == ADAPTER and args["async_scheduling"] is False
    ours = {"scheduler": "stall-free", "token_budget": args["max_num_batched_tokens"]}
    assert args["additional_config"] == {"coursekit": ours}
    assert args["enable_prefix_caching"] is False
    args = recommend(LOAD, RunSlo(itl_s=0.06), scheduler="priority-token-budget").config.engine_args
    assert args["scheduling_policy"] == "priority" and "scheduler_cls" not in args


def test_a_recorded_profile_is_a_device_too():
    found = recommend(chats(10, 1.0), RunSlo(itl_s=0.3), PROFILE, "smollm2-135m")
    assert found.feasible and "calibrated" in found.label
    assert found.config["max_num_seqs"].source == "counted: 2 GiB of KV cache (VLLM_CPU_KVCACHE_SPACE=2)"


def test_the_kv_cache_limits_the_length_where_it_is_smaller_than_the_context():
    assert site_of("a100", "llama-2-7b").longest == 4096
    assert site_of("a100", "llama-2-7b", 100).longest == 1600
    assert mean_length(chats(), site_of("a100", "llama-2-7b")) == 460


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"scheduler": "prefill-first"}, "scheduler must be one of token-budget, .*got 'prefill-first'"),
        ({"device": "b300"}, "unknown device 'b300'; known: .*a100.*amd-epyc"),
        ({"model": "gpt"}, "unknown model 'gpt'; known: .*llama-2-7b"),
        ({"device": PROFILE}, "is not of model 'llama-2-7b'"),
        ({"num_blocks": 0}, "num_blocks must be >= 1, got 0"),
        ({"num_blocks": 10}, "at most 160 tokens with llama-2-7b on this device, got "),
        ({"objective": "fun"}, "unknown objective 'fun'"),
        ({"token_budgets": (64, 32)}, "must be 1 or more and rise"),
    ],
)
def test_what_can_not_be_done_is_refused_in_words(arguments, says):
    with pytest.raises(ValueError, match=says):
        recommend(LOAD, RunSlo(itl_s=0.1), **arguments)


def test_an_empty_workload_is_refused():
    with pytest.raises(ValueError, match="at least 1 request"):
        recommend(Workload([], [], []), RunSlo(itl_s=0.1))


def test_a_request_that_is_never_served_leaves_no_nearest_slo():
    answer = recommend(LOAD, RunSlo(itl_s=0.006, ttft_s=0.5)).answer
    answer.table.loc[answer.nearest.size, "ttft_p99_s"] = math.inf
    assert nearest([answer]) is None
