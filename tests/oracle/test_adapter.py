"""Our schedulers inside vLLM's: each decision there is the policy's own, and no block is lost."""

from __future__ import annotations

from collections import deque
from copy import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.oracle import vllm_driver as driver
from tests.oracle.strategies import Settings
from tests.oracle.strategies import Arrival as VllmArrival
from tests.schedulers.checker import Arrival
from tests.schedulers.workloads import LONGEST, workloads

from coursekit.deploy.vllm_scheduler import CoursekitScheduler  # noqa: I001 - after the driver
from coursekit.chunking.adaptive import AdaptiveChunkedPrefill, CostInverse
from coursekit.kv_cache import BlockCounter
from coursekit.request import Request
from coursekit.schedulers import NAMES
from coursekit.simulate import make_scheduler

PROFILE = "amd-epyc-2-cores/smollm2-135m-instruct-vllm"
BLOCK_SIZE, BUDGET, SEATS = 16, 40, 6
thorough = settings(
    max_examples=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


def make_inside(
    name: str, num_blocks: int, adapter: type[CoursekitScheduler] = CoursekitScheduler, **options
) -> CoursekitScheduler:
    """The adapter with this policy, built as vLLM builds a scheduler."""
    own = Settings(
        token_budget=200, max_num_seqs=SEATS, max_model_len=LONGEST + 8, num_blocks=num_blocks,
        block_size=BLOCK_SIZE, long_prefill_token_threshold=0, enable_chunked_prefill=True,
        by_priority=False, reserve_full_isl=False, caches_prefixes=options.pop("caches", False),
    )  # fmt: skip
    config = driver._make_config(own)
    config.additional_config = {
        "coursekit": {"token_budget": BUDGET, **({"scheduler": name} if name else {}), **options}
    }
    config.cache_config.num_gpu_blocks = num_blocks + 1
    spec = driver.FullAttentionSpec(
        block_size=BLOCK_SIZE, num_kv_heads=1, head_size=1, dtype=driver.torch.float32
    )
    return adapter(
        vllm_config=config,
        kv_cache_config=driver.KVCacheConfig(
            num_blocks=num_blocks + 1, kv_cache_tensors=[],
            kv_cache_groups=[driver.KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=driver.StructuredOutputManager(config),
        block_size=BLOCK_SIZE, log_stats=False,
    )  # fmt: skip


def vllm_request(index: int, arrival: Arrival):
    own = Settings(
        token_budget=200, max_num_seqs=SEATS, max_model_len=LONGEST + 8, num_blocks=1,
        block_size=BLOCK_SIZE, long_prefill_token_threshold=0, enable_chunked_prefill=True,
        by_priority=False, reserve_full_isl=False, caches_prefixes=False,
    )  # fmt: skip
    made = driver._make_request(
        index,
        VllmArrival(arrival.step, arrival.num_prompt_tokens, arrival.max_tokens,
                    arrival.priority), own,
    )  # fmt: skip
    made.sampling_params = copy(made.sampling_params)  # the driver's are shared by all requests
    made.sampling_params.extra_args = {"priority_class": arrival.priority_class}
    return made


def steps_inside(scheduler, workload, cancels=(), stops=()):
    """Each step's tokens by request; `cancels`: (step, request) that clients give up."""
    coming, now = deque(enumerate(workload)), 0
    while coming or scheduler.requests:
        while coming and coming[0][1].step <= now:
            scheduler.add_request(vllm_request(*coming.popleft()))
        for step, index in cancels:
            if step == now:
                scheduler.finish_requests(str(index), driver_status())
        output = scheduler.schedule()
        yield {int(name): count for name, count in output.num_scheduled_tokens.items()}
        scheduler.update_from_output(output, driver._pretend_to_run(scheduler, output))
        now += 1
        assert now < 3000


def driver_status():
    from vllm.v1.request import RequestStatus

    return RequestStatus.FINISHED_ABORTED


def steps_alone(name: str, workload, num_blocks: int):
    """The same from the policy itself."""
    scheduler = make_scheduler(
        name, token_budget=BUDGET, max_num_seqs=SEATS, kv=BlockCounter(num_blocks, BLOCK_SIZE),
        max_model_len=LONGEST + 8,
    )  # fmt: skip
    coming, now = deque(enumerate(workload)), 0
    while coming or scheduler.has_requests:
        while coming and coming[0][1].step <= now:
            index, arrival = coming.popleft()
            scheduler.add_request(Request(
                index, float(index), arrival.num_prompt_tokens, arrival.max_tokens,
                arrival.priority, arrival.priority_class,
            ))  # fmt: skip
        batch = scheduler.schedule()
        if batch.preempted and not batch.num_decodes and not batch.chunks:
            batch = scheduler.schedule()
        members = scheduler.running if batch.num_decodes else ()
        step = {r.index: 1 for r in members if r.entry_clock >= 0}
        step |= {chunk.request.index: chunk.num_tokens for chunk in batch.chunks}
        yield step
        scheduler.update(batch)
        now += 1


def assert_nothing_is_held(scheduler: CoursekitScheduler) -> None:
    pool = scheduler.kv_cache_manager.block_pool
    assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
    assert not scheduler.policy.has_requests and not scheduler._mirrors
    assert scheduler.policy.kv.num_free == scheduler.policy.kv.num_blocks


@pytest.mark.parametrize("name", NAMES)
@thorough
@given(workload=workloads, num_blocks=st.integers(-(-LONGEST // BLOCK_SIZE), 14))
def test_decisions_inside_vllm_are_the_policys_own(name, workload, num_blocks):
    scheduler = make_inside(name, num_blocks)
    inside = list(steps_inside(scheduler, workload))
    assert inside == list(steps_alone(name, workload, num_blocks))
    assert_nothing_is_held(scheduler)


@pytest.mark.parametrize("name", NAMES)
@thorough
@given(
    workload=workloads,
    cancels=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 13)), max_size=5),
)
def test_requests_given_up_leave_nothing_behind(name, workload, cancels):
    scheduler = make_inside(name, 8)
    for _ in steps_inside(scheduler, workload, cancels):
        pass
    assert_nothing_is_held(scheduler)


def test_a_request_that_ends_early_is_dropped_from_the_policy_too():
    scheduler = make_inside("stall-free", 14)
    request = vllm_request(0, Arrival(0, 10, 12))
    request.sampling_params.ignore_eos = False
    request.sampling_params._eos_token_id = driver.GENERATED_TOKEN
    request.sampling_params.stop_token_ids = [driver.GENERATED_TOKEN]
    scheduler.add_request(request)
    output = scheduler.schedule()
    scheduler.update_from_output(output, driver._pretend_to_run(scheduler, output))
    assert not scheduler.requests
    assert_nothing_is_held(scheduler)


def test_the_budget_turns_between_steps_and_a_subclass_may_turn_it_itself():
    class Halving(CoursekitScheduler):
        def before_step(self):
            self.token_budget = max(1, self.token_budget // 2)

    scheduler = make_inside("token-budget", 14)
    scheduler.__class__ = Halving
    scheduler.token_budget = 32
    steps = list(steps_inside(scheduler, [Arrival(0, 28, 2)]))
    assert [sum(step.values()) for step in steps[:3]] == [16, 8, 4]
    assert scheduler.last_step.num_decode_tokens == 1 and scheduler.last_step.seconds > 0
    for bad in (0, 201):
        with pytest.raises(ValueError, match=f"1..200.*got {bad}"):
            scheduler.token_budget = bad


@pytest.mark.parametrize("policy", ["stall-free", "token-budget", "priority-aware"])
@thorough
@given(workload=workloads, num_blocks=st.integers(-(-LONGEST // BLOCK_SIZE), 14))
def test_driven_by_a_constant_controller_decisions_are_the_policys_own(
    policy, workload, num_blocks
):
    options = {"policy": policy, "controller": "aimd", "itl_target_s": 1e9, "start": BUDGET}
    scheduler = make_inside("adaptive", num_blocks, **options)  # it can grow no further
    inside = list(steps_inside(scheduler, workload))
    assert inside == list(steps_alone(policy, workload, num_blocks))
    assert_nothing_is_held(scheduler)


@thorough
@given(workload=workloads, target_s=st.sampled_from([1e-9, 1e-3, 0.02, 10.0]))
def test_under_a_controller_everybody_gets_its_tokens_within_the_budget(workload, target_s):
    scheduler = make_inside(
        "adaptive", 14, token_budget=200, profile=PROFILE, itl_target_s=target_s, efficient=True
    )
    computed = {index: 0 for index in range(len(workload))}
    for step in steps_inside(scheduler, workload):
        assert sum(step.values()) <= max(scheduler.token_budget, 1) <= 200
        for index, count in step.items():
            computed[index] += count
    least = [arrival.num_prompt_tokens + arrival.max_tokens - 1 for arrival in workload]
    assert all(computed[index] >= tokens for index, tokens in enumerate(least))
    assert_nothing_is_held(scheduler)


def test_the_adaptive_class_is_adaptive_by_default_and_found_by_its_dotted_path():
    from vllm.utils.import_utils import resolve_obj_by_qualname

    path = "coursekit.deploy.vllm_scheduler.AdaptiveCoursekitScheduler"
    adapter = resolve_obj_by_qualname(path)
    scheduler = make_inside(None, 14, adapter, profile=PROFILE, itl_target_s=0.2)
    assert isinstance(scheduler.policy, AdaptiveChunkedPrefill)
    assert isinstance(scheduler.policy.controller, CostInverse)
    for bad, message in (
        ({"itl_target_s": 0.2}, "needs a profile, got none"),
        ({"controller": "aimd", "itl_target_s": 0}, "itl_target_s must be > 0 s, got 0"),
        ({"controller": "aimd", "itl_target_s": 1, "policy": "prefill-first", "token_budget": 9},
         "may reach 66 tokens|runs prompts whole"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make_inside(None, 14, adapter, **bad)
    with pytest.raises(ValueError, match="the controller chooses"):
        scheduler.token_budget = 5


def test_what_it_can_not_work_with_is_refused():
    with pytest.raises(ValueError, match="can't work with prefix caching"):
        make_inside("stall-free", 14, caches=True)
    with pytest.raises(ValueError, match="may reach 206 tokens.*max_num_batched_tokens 200"):
        make_inside("interleaved", 14, token_budget=200)
    with pytest.raises(ValueError, match="unknown scheduler 'best'"):
        make_inside("best", 14)
