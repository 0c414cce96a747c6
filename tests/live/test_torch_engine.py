"""The torch engine: under any schedule, each request gets the tokens that it gets alone.

The named tests are bugs that real engines had in their chunked prefill.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention as sdpa

from coursekit import AdaptiveChunkedPrefill
from coursekit.chunking.adaptive import Aimd, CostInverse, FixedBudget
from coursekit.cost import RooflineCost
from coursekit.executors import packed
from coursekit.kv_cache import BlockCounter, PrefixCachingBlocks, SlottedKVCache
from coursekit.live import TorchEngine
from coursekit.metrics import summarize
from coursekit.models import attention
from coursekit.models.sampling import Sampling
from coursekit.schedulers import InterleavedPrefillDecodeScheduler, StallFree, TokenBudget
from coursekit.workload import Workload
from tests.live.serving import assert_nothing_is_held, expected, serve
from tests.schedulers.checker import Arrival
from tests.schedulers.workloads import LONGEST, OPTIONS, makers, workloads

thorough = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                           HealthCheck.function_scoped_fixture],
)  # fmt: skip
A100 = RooflineCost("a100", "llama-2-7b")
CROWD = [Arrival(0, 20, 12), Arrival(0, 20, 12), Arrival(1, 20, 12), Arrival(2, 8, 12)]


def new_engine(model, scheduler, **options):
    return TorchEngine(model, scheduler, **{"max_model_len": LONGEST, **options})


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
@thorough
@given(data=st.data(), workload=workloads)
def test_any_schedule_gives_each_request_the_tokens_it_gets_alone(
    tiny_model, policy, data, workload
):
    engine = new_engine(tiny_model, data.draw(makers(policy))())
    assert serve(engine, workload) == expected(tiny_model, workload)
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
@thorough
@given(data=st.data(), workload=workloads)
def test_cancels_and_failing_forwards_do_not_change_what_the_others_get(
    tiny_model, policy, data, workload
):
    engine = new_engine(tiny_model, data.draw(makers(policy))())
    cancels = data.draw(st.dictionaries(st.integers(0, 25), st.integers(0, len(workload) - 1)))
    failing = data.draw(st.sets(st.integers(0, 25), max_size=3))
    cancelled = set()

    def on_step(now):
        if cancels.get(now) in engine.requests:
            engine.cancel(cancels[now])
            cancelled.add(cancels[now])
        if now in failing and engine.has_requests:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tiny_model.norm, "forward", lambda x: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    engine.step()

    sent, complete = serve(engine, workload, on_step), expected(tiny_model, workload)
    for index, tokens in sent.items():
        assert tokens == complete[index][: len(tokens)]
        assert index in cancelled or len(tokens) == len(complete[index])
    assert_nothing_is_held(engine)


@thorough
@given(
    workload=workloads, failing=st.sets(st.integers(0, 40), max_size=4),
    budgets=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    layer=st.sampled_from([0, 1]),
)  # fmt: skip
def test_turned_budgets_and_failing_forwards_change_no_token(
    tiny_model, workload, failing, budgets, layer
):
    engine = new_engine(tiny_model, TokenBudget(60, 6, BlockCounter(30, 4)))
    attention = tiny_model.layers[layer].self_attn

    def on_step(now):
        engine.token_budget = budgets[now % len(budgets)]
        if now in failing and engine.has_requests:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attention, "forward", lambda *args: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    engine.step()

    assert serve(engine, workload, on_step) == expected(tiny_model, workload)
    assert_nothing_is_held(engine)


@thorough
@given(
    workload=workloads, failing=st.sets(st.integers(0, 40), max_size=3),
    target_s=st.sampled_from([1e-6, 2e-3, 10.0]), name=st.sampled_from(["aimd", "cost-inverse"]),
)  # fmt: skip
def test_a_controller_on_a_real_clock_changes_no_token(
    tiny_model, workload, failing, target_s, name
):
    policy = StallFree(60, 6, BlockCounter(30, 4))
    controller = Aimd(target_s, 8, 4) if name == "aimd" else CostInverse(A100, target_s)
    engine = new_engine(tiny_model, AdaptiveChunkedPrefill(policy, controller))

    def on_step(now):
        if now in failing and engine.has_requests:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tiny_model.norm, "forward", lambda x: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    engine.step()

    assert serve(engine, workload, on_step) == expected(tiny_model, workload)
    assert_nothing_is_held(engine)
    driver = engine.scheduler
    assert len(driver.budgets) == engine.trace().num_iterations
    assert engine.trace().info["scheduler"]["controller"]["itl_target_s"] == target_s


def test_an_adaptive_engine_records_each_of_its_runs(tiny_model):
    engine = new_engine(tiny_model, AdaptiveChunkedPrefill(StallFree(60, 6), FixedBudget(30)))
    for _ in range(2):
        trace = engine.run(Workload([0, 0], [40, 10], [5, 4]).source())
        assert trace.requests["num_output_tokens"].tolist() == [5, 4]
        assert [len(trace.token_times_s(index)) for index in range(2)] == [5, 4]
    assert_nothing_is_held(engine)


def test_who_holds_an_adaptive_engine_is_told_to_leave_its_budget_alone(tiny_model):
    engine = new_engine(tiny_model, AdaptiveChunkedPrefill(StallFree(60, 6), FixedBudget(30)))
    assert engine.token_budget == engine.max_token_budget == 60
    with pytest.raises(ValueError, match="the controller chooses the token budget, got 20"):
        engine.token_budget = 20


def ignore_mask(patch):
    patch.setattr(packed, "attend_one", lambda q, k, v, mask: attention.attend_one(q, k, v))


def see_the_future(patch):
    patch.setattr(packed, "attend", lambda q, k, v: sdpa(q[None], k[None], v[None], enable_gqa=True)[0])


def take_the_wrong_slots(patch):
    patch.setattr(packed, "group_slots", lambda parts: [(i, i + 1) for i in range(1, len(parts))])


def forget_to_reset(patch):
    patch.setattr(SlottedKVCache, "take", lambda cache: cache._free.pop(0))


@pytest.mark.parametrize(
    "fault", [ignore_mask, see_the_future, take_the_wrong_slots, forget_to_reset]
)
def test_planted_faults_show_in_the_tokens_or_fail(tiny_model, monkeypatch, fault):
    with monkeypatch.context() as patch:
        fault(patch)
        engine = new_engine(tiny_model, StallFree(30, 4, kv=BlockCounter(15, block_size=4)))
        try:
            assert serve(engine, CROWD) != expected(tiny_model, CROWD)
        except RuntimeError as error:
            assert fault is forget_to_reset and "the scheduler counts" in str(error)


def test_real_weights_give_the_same_tokens_in_mixed_batches(smollm2):
    arrivals = [Arrival(0, 30, 8), Arrival(1, 150, 6), Arrival(2, 9, 8), Arrival(2, 64, 5)]
    engine = new_engine(smollm2, StallFree(40, 4), max_model_len=200)
    assert serve(engine, arrivals) == expected(smollm2, arrivals)


# --- Bugs that real engines had ---


def test_bug_stale_cached_token_count_after_a_preemption(tiny_model):
    """A preempted request starts at 0 again, in a slot that counts from 0 again."""
    engine = new_engine(tiny_model, StallFree(30, kv=BlockCounter(15, block_size=4)))
    sent = serve(engine, CROWD)
    assert engine.trace().requests["num_preemptions"].sum() > 0
    assert sent == expected(tiny_model, CROWD)


def test_bug_stale_count_is_refused_and_not_computed_with(tiny_model):
    engine = new_engine(tiny_model, TokenBudget(8, 2))
    engine.submit(20, 2)
    engine.step()
    engine.executor.cache.lengths[0] = 3  # what a forgotten reset would leave
    with pytest.raises(RuntimeError, match="holds 3 tokens of request 0.*counts 8 computed"):
        engine.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bug_attention_past_the_end_of_the_chunk(tiny_model, dtype):
    """What an earlier, longer request left in the slot must not be seen."""
    model = copy.deepcopy(tiny_model).to(dtype)
    arrivals = [Arrival(0, 30, 5), Arrival(0, 7, 6)]
    clean = serve(new_engine(model, StallFree(8)), arrivals)
    engine = new_engine(model, StallFree(8))
    generator = torch.Generator().manual_seed(0)
    for memory in (engine.executor.cache.keys, engine.executor.cache.values):
        memory.copy_(100 * torch.randn(memory.shape, generator=generator))
    assert serve(engine, arrivals) == clean


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
def test_bug_a_lone_prompt_of_many_chunks_never_finishes(tiny_model, policy):
    engine = new_engine(tiny_model, policy(4))
    assert serve(engine, [Arrival(0, 40, 3)], most_steps=60) == expected(
        tiny_model, [Arrival(0, 40, 3)]
    )


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_bug_kv_leaks_after_an_exception(tiny_model, monkeypatch, error):
    """Whatever ends a forward: no slot and no block stays held, and the tokens come all the same."""
    engine = new_engine(tiny_model, TokenBudget(16, 4, BlockCounter(40, 4)))
    for length in (30, 9, 12):
        engine.submit(length, 6)
    for _ in range(4):
        engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(tiny_model.norm, "forward", lambda x: (_ for _ in ()).throw(error))
        with pytest.raises(error):
            engine.step()
    assert engine.executor.cache.num_free == 4 and engine.scheduler.kv.num_free == 40
    while engine.has_requests:
        engine.step()
    trace = engine.trace()
    assert not np.isnan(trace.requests["finished_s"]).any()
    assert (trace.requests["num_preemptions"] >= 1).all()
    assert_nothing_is_held(engine)


def test_bug_a_chunk_that_is_not_the_last_samples_a_token(tiny_model):
    engine = new_engine(tiny_model, TokenBudget(8, 2))
    engine.submit(30, 2)
    tokens = [engine.step().tokens for _ in range(4)]
    assert [len(each) for each in tokens] == [0, 0, 0, 1]


# --- What else it promises ---


def test_the_record_of_a_run_is_complete_and_on_one_clock(tiny_model):
    engine = new_engine(tiny_model, StallFree(16, 4))
    steps = []
    source = Workload([0, 0, 0.02], [30, 10, 20], [5, 4, 3]).source()
    trace = engine.run(source, on_step=steps.append)
    assert trace.label == engine.label and trace.label.startswith("live (")
    assert trace.num_iterations == len(steps)
    assert trace.iterations["end_s"].tolist() == [step.end_s for step in steps]
    assert (trace.iterations["start_s"][1:] >= trace.iterations["end_s"][:-1]).all()
    assert trace.requests["num_output_tokens"].tolist() == [5, 4, 3]
    prefill = trace.iterations["num_prefill_tokens"].sum()
    assert prefill == sum(step.num_prefill_tokens for step in steps) == 60
    sent = {index: [] for index in range(3)}
    for step in steps:
        for index in step.tokens:
            sent[index].append(step.end_s)
    assert all(trace.token_times_s(index).tolist() == times for index, times in sent.items())
    assert summarize(trace)[0]["n"] == 3
    assert trace.requests["arrival_s"][2] == 0.02
    assert trace.requests["first_scheduled_s"][2] >= 0.02


def test_a_record_in_mid_run_shows_everybody_and_changes_nothing(tiny_model):
    engine = new_engine(tiny_model, TokenBudget(16, 2))
    for length in (10, 30, 5):
        engine.submit(length, 8)
    for _ in range(5):
        engine.step()
    first, again = engine.trace(), engine.trace()
    assert first.num_requests == 3 and np.isnan(first.requests["finished_s"]).all()
    assert first.requests["num_output_tokens"].tolist() == again.requests["num_output_tokens"].tolist()
    for index in range(3):
        assert len(first.token_times_s(index)) == first.requests["num_output_tokens"][index]
    while engine.has_requests:
        engine.step()
    assert engine.trace().requests["num_output_tokens"].tolist() == [8, 8, 8]


def test_a_cancelled_request_leaves_at_once_and_stays_in_the_record(tiny_model):
    engine = new_engine(tiny_model, TokenBudget(8, 2, BlockCounter(40, 4)))
    prefilling, decoding, waiting = engine.submit(40, 5), engine.submit(6, 9), engine.submit(9, 5)
    for _ in range(2):
        engine.step()
    for index in (prefilling, waiting):
        engine.cancel(index)
    with pytest.raises(ValueError, match="request 0 is not running"):
        engine.cancel(prefilling)
    while engine.has_requests:
        engine.step()
    finished = ~np.isnan(engine.trace().requests["finished_s"])
    assert finished.tolist() == [False, True, False] and decoding == 1
    assert_nothing_is_held(engine)


def test_the_budget_turns_between_two_steps(tiny_model):
    engine = new_engine(tiny_model, TokenBudget(32, 2))
    engine.submit(50, 2)
    sizes = []
    for budget in (32, 4, 1, 13):
        engine.token_budget = budget
        sizes.append(engine.step().num_prefill_tokens)
    assert sizes == [32, 4, 1, 13] and engine.token_budget == 13
    for bad in (0, 33):
        with pytest.raises(ValueError, match=f"must be in 1..32.*got {bad}"):
            engine.token_budget = bad


def test_the_interleaved_policy_turns_its_chunk_size(tiny_model):
    engine = new_engine(tiny_model, InterleavedPrefillDecodeScheduler(32, 2))
    engine.submit(50, 2)
    engine.token_budget = 5
    assert engine.step().num_prefill_tokens == 5


def test_samples_depend_on_the_seed_and_not_on_the_schedule(tiny_model):
    drawn = [
        serve(new_engine(tiny_model, scheduler, sampling=Sampling(1.0, 0.9, seed)), CROWD)
        for scheduler, seed in ((StallFree(50), 1), (TokenBudget(3, 2), 1), (StallFree(50), 2))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != expected(tiny_model, CROWD)


@pytest.mark.parametrize(
    "prompt, max_tokens, message",
    [
        (0, 2, "num_prompt_tokens must be >= 1, got 0"),
        (5, 0, "max_tokens must be >= 1, got 0"),
        ([1, 97], 2, "0..96, got 97"),
        (50, 4, "may reach 53 tokens, a KV slot holds 52"),
        (30, 4, "may need 33 KV slots, there are 32"),
    ],
)
def test_what_can_not_be_served_is_refused_and_leaves_nothing(
    tiny_model, prompt, max_tokens, message
):
    engine = new_engine(tiny_model, TokenBudget(8, 2, BlockCounter(8, 4)))
    with pytest.raises(ValueError, match=message):
        engine.submit(prompt, max_tokens)
    assert_nothing_is_held(engine)


def test_what_does_not_fit_the_memory_is_refused_before_the_run(smollm2, tiny_model):
    with pytest.raises(MemoryError, match="GiB of KV cache for 100000 requests of 8192.*lower"):
        TorchEngine(smollm2, TokenBudget(64, 100_000), max_model_len=8192)
    with pytest.raises(ValueError, match="prefixes can't be shared"):
        TorchEngine(tiny_model, TokenBudget(kv=PrefixCachingBlocks(8)))
    with pytest.raises(ValueError, match="capacity must be in 1..512"):
        TorchEngine(tiny_model, TokenBudget(64), max_model_len=1000)


def test_it_stops_when_asked_and_keeps_the_record(tiny_model):
    engine = new_engine(tiny_model, TokenBudget(8, 2))
    steps = []
    trace = engine.run(
        Workload([0, 500], [20, 20], [9, 9]).source(),
        on_step=steps.append, should_stop=lambda: len(steps) == 4,
    )  # fmt: skip
    assert trace.num_iterations == 4 and engine.has_requests
