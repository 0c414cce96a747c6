"""Our schedulers inside vLLM: the policy decides, vLLM's own block manager carries it out.

    EngineArgs(scheduler_cls="coursekit.deploy.vllm_scheduler.CoursekitScheduler",
               async_scheduling=False, enable_prefix_caching=False,
               additional_config={"coursekit": {"scheduler": "stall-free", "token_budget": 256}})

or `--scheduler-cls … --additional-config '{…}'` of the server. For each of vLLM's requests the
policy has a request of its own, and its own count of the same KV blocks. Written for vLLM 0.32
(`v1/core/sched/scheduler.py`). Importing this module imports vllm.
"""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler as VllmScheduler
from vllm.v1.request import Request as VllmRequest
from vllm.v1.request import RequestStatus

from coursekit.batch import Batch
from coursekit.chunking.adaptive.controllers import OPTIONS as CONTROL
from coursekit.chunking.adaptive.controllers import drive
from coursekit.kv_cache import BlockCounter
from coursekit.live.vllm_engine import RUN_PROMPTS_WHOLE
from coursekit.request import Request
from coursekit.schedulers import Scheduler
from coursekit.simulate import make_scheduler

CLASSES = ("high", "medium", "low")
_log = logging.getLogger(__name__)


class LastStep(NamedTuple):
    """The step before: seconds from its decision to its results, and what it ran."""

    seconds: float
    num_prefill_tokens: int
    num_decode_tokens: int


class CoursekitScheduler(VllmScheduler):
    """vLLM's scheduler with a policy of `coursekit.schedulers` in place of its own.

    vllm_config.additional_config["coursekit"]: "scheduler", a name in NAMES (default
    "token-budget"), and its limits, such as "token_budget" (default: max_num_batched_tokens).
    "scheduler": "adaptive" puts a controller over "policy" (default "stall-free"): see
    `coursekit.chunking.adaptive.drive` for its options. A request's class is its sampling
    parameters' extra_args["priority_class"], else "medium".
    policy: the scheduler that decides; last_step: see `LastStep`, None at first.
    Raises ValueError for what it can't do: async scheduling, prefix caching, speculative
    decoding, LoRA, encoders, connectors; and for limits that could pass max_num_batched_tokens.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._refuse_unsupported()
        options = dict((self.vllm_config.additional_config or {}).get("coursekit", {}))
        name = options.pop("scheduler", self.default_scheduler)
        if name == "adaptive":
            control = {key: options.pop(key) for key in CONTROL if key in options}
            name = options.pop("policy", "stall-free")
            self.policy = drive(self._make_policy(name, options), control)
        else:
            self.policy = self._make_policy(name, options)
        self._knob = "chunk_size" if name == "interleaved" else "token_budget"
        self.last_step: LastStep | None = None
        self._mirrors: dict[str, Request] = {}  # vLLM's request id -> the policy's request
        self._num_added = 0
        self._batch: Batch | None = None  # decided and not yet accounted for
        self._decided_at = 0.0

    default_scheduler = "token-budget"

    def _make_policy(self, name: str, options: dict) -> Scheduler:
        """The policy called `name`, with a count of vLLM's KV blocks and within its room."""
        most = self.scheduler_config.max_num_batched_tokens
        limits = {
            "token_budget": most, "max_num_seqs": self.max_num_running_reqs,
            "max_model_len": self.max_model_len, **options,
        }  # fmt: skip
        self._check_room(name, limits, most)
        pool = self.kv_cache_manager.block_pool
        # vLLM keeps one block for itself, the null block
        kv = BlockCounter(pool.num_gpu_blocks - 1, self.block_size)
        return make_scheduler(name, kv=kv, **limits)

    def before_step(self) -> None:
        """Called before each decision. For subclasses that turn `token_budget`; does nothing."""

    @property
    def token_budget(self) -> int:
        """The policy's budget; may be set between steps to 1..max_num_batched_tokens."""
        return getattr(self.policy, self._knob)

    @token_budget.setter
    def token_budget(self, token_budget: int) -> None:
        most = self.scheduler_config.max_num_batched_tokens
        if not 1 <= token_budget <= most:
            raise ValueError(
                f"token_budget must be in 1..{most} (max_num_batched_tokens), got {token_budget}"
            )
        setattr(self.policy, self._knob, token_budget)

    # --- What vLLM's engine calls ---

    def add_request(self, request: VllmRequest) -> None:
        mirror = self._mirror_of(request)
        self.policy.add_request(mirror)
        self._mirrors[request.request_id] = mirror
        super().add_request(request)

    def finish_requests(self, request_ids, finished_status):
        finished = super().finish_requests(request_ids, finished_status)
        if self._batch is None:  # else once the batch in flight is accounted for
            self._forget_the_finished()
        return finished

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:
        self.current_step += 1
        self.before_step()
        self._decided_at = time.perf_counter()
        self.kv_cache_manager.new_step_starts()
        batch = self._batch = self._decide()
        for mirror in batch.preempted:
            self._take_blocks_of(self._request_of(mirror))
        return self._carry_out(self._tokens_of(batch))

    def update_from_output(self, scheduler_output, model_runner_output):
        result = super().update_from_output(scheduler_output, model_runner_output)
        batch, self._batch = self._batch, None
        prefill = sum(
            chunk.num_tokens for chunk in batch.chunks
            if chunk.context + chunk.num_tokens <= chunk.request.num_prompt_tokens
        )  # fmt: skip
        seconds = time.perf_counter() - self._decided_at
        self.last_step = LastStep(seconds, prefill, batch.num_tokens - prefill)
        self.policy.observe(batch, seconds)
        self.policy.update(batch)
        self._forget_the_finished()
        return result

    # --- How ---

    def _decide(self) -> Batch:
        """The policy's next batch; one that only makes room is followed by another."""
        batch = self.policy.schedule()
        preempted: list[Request] = []
        while batch.preempted and not batch.num_decodes and not batch.chunks:
            preempted += batch.preempted
            batch = self.policy.schedule()
        batch.preempted[:0] = preempted
        return batch

    def _tokens_of(self, batch: Batch) -> list[tuple[VllmRequest, int]]:
        """Each request of the batch and how many tokens of it."""
        decoding = self.policy.running if batch.num_decodes else ()
        work = [(mirror, 1) for mirror in decoding if mirror.entry_clock >= 0]
        work += [(mirror, num_tokens) for mirror, num_tokens, _ in batch.chunks]
        return [(self._request_of(mirror), num_tokens) for mirror, num_tokens in work]

    def _take_blocks_of(self, request: VllmRequest) -> None:
        self.running.remove(request)
        self._preempt_request(request, time.monotonic())

    def _carry_out(self, work: list[tuple[VllmRequest, int]]) -> SchedulerOutput:
        """Allocate blocks for `work`, admit who is new, and tell the model runner."""
        running, resumed, new = [], [], []
        blocks, num_tokens = {}, {request.request_id: count for request, count in work}
        for request, count in work:
            name, status = request.request_id, request.status
            if status is RequestStatus.RUNNING:
                running.append(request)
            else:
                (new if status is RequestStatus.WAITING else resumed).append(request)
                request.num_computed_tokens = 0
            blocks[name] = self.kv_cache_manager.allocate_slots(request, count)
            if blocks[name] is None:
                raise RuntimeError(
                    f"vLLM has no KV blocks for {count} tokens of request {name}, the policy "
                    f"counted {self.policy.kv.num_free} free: please report this"
                )
            if status is not RequestStatus.RUNNING:
                self._admit(request)
                blocks[name] = self.kv_cache_manager.get_blocks(name)
            if request.num_computed_tokens + count < request.num_tokens:
                self._inflight_prefills.add(request)
        return self._output(new, resumed, running, blocks, num_tokens)

    def _admit(self, request: VllmRequest) -> None:
        self.waiting.remove_request(request)
        self.running.append(request)
        request.status = RequestStatus.RUNNING

    def _output(self, new, resumed, running, blocks, num_tokens) -> SchedulerOutput:
        """As the end of the parent's `schedule`, without what is refused at construction."""
        if self.use_v2_model_runner:
            new, resumed = new + resumed, []
        told = [
            NewRequestData.from_request(
                request, blocks[request.request_id].get_block_ids(),
                *([request._all_token_ids] if self.use_v2_model_runner else []),
            )
            for request in new
        ]  # fmt: skip
        cached = self._make_cached_request_data(running, resumed, num_tokens, {}, blocks)
        if not self.use_v2_model_runner:
            self.prev_step_scheduled_req_ids.clear()
            self.prev_step_scheduled_req_ids.update(num_tokens)
        self.kv_cache_manager.take_boundary_state_offloads()
        self.kv_cache_manager.take_kv_cache_block_copies()
        output = SchedulerOutput(
            scheduled_new_reqs=told,
            scheduled_cached_reqs=cached,
            num_scheduled_tokens=num_tokens,
            total_num_scheduled_tokens=sum(num_tokens.values()),
            scheduled_spec_decode_tokens={},
            scheduled_encoder_inputs={},
            preempted_req_ids=self.reset_preempted_req_ids,
            finished_req_ids=self.finished_req_ids,
            free_encoder_mm_hashes=self.encoder_cache_manager.get_freed_mm_hashes(),
            new_block_ids_to_zero=self._get_new_block_ids_to_zero(),
            ec_manager_metadata=self.encoder_cache_manager.get_manager_metadata(),
        )
        if self.defer_block_free and num_tokens:
            self.sched_step_seq += 1
        self._update_after_schedule(output)
        return output

    def _forget_the_finished(self) -> None:
        """Drop mirrors of requests that vLLM has finished, also earlier than their limit."""
        for name in [name for name in self._mirrors if name not in self.requests]:
            mirror = self._mirrors.pop(name)
            if mirror in self.policy.running or mirror in self.policy.waiting:
                self.policy.abort(mirror)

    def _request_of(self, mirror: Request) -> VllmRequest:
        return self.requests[mirror.name]

    def _mirror_of(self, request: VllmRequest) -> Request:
        """The policy's request for one of vLLM's."""
        room = self.max_model_len - request.num_prompt_tokens
        extra = getattr(request.sampling_params, "extra_args", None) or {}
        priority_class = extra.get("priority_class", "medium")
        if priority_class not in CLASSES:
            _log.warning("unknown priority_class %r, served as medium", priority_class)
            priority_class = "medium"
        mirror = _Mirror(
            self._num_added, request.arrival_time, request.num_prompt_tokens,
            max(1, min(request.max_tokens, room)), request.priority, priority_class,
        )  # fmt: skip
        mirror.name = request.request_id
        self._num_added += 1
        return mirror

    def _refuse_unsupported(self) -> None:
        config = self.vllm_config
        found = {
            "async scheduling": self.scheduler_config.async_scheduling,
            "prefix caching": self.cache_config.enable_prefix_caching,
            "speculative decoding": config.speculative_config is not None,
            "LoRA": self.lora_config is not None,
            "an encoder": self.is_encoder_decoder or config.model_config.is_multimodal_model,
            "a KV connector": self.connector is not None or self.ec_connector is not None,
            "pipeline parallelism": self.parallel_config.pipeline_parallel_size > 1,
        }
        if bad := [what for what, is_on in found.items() if is_on]:
            raise ValueError(
                f"CoursekitScheduler can't work with {', '.join(bad)}; turn it off (for "
                "example async_scheduling=False, enable_prefix_caching=False)"
            )

    def _check_room(self, name: str, limits: dict, most: int) -> None:
        """Some policies pass their budget by whole prompts, or by the decodes."""
        needed = limits["token_budget"]
        if name in RUN_PROMPTS_WHOLE:
            needed = max(needed, self.max_model_len) + limits["max_num_seqs"]
        elif name == "interleaved":
            needed += limits["max_num_seqs"]
        if needed > most:
            raise ValueError(
                f"batches of {name} may reach {needed} tokens with these limits, got "
                f"max_num_batched_tokens {most}; raise it, or lower token_budget, "
                "max_num_seqs or max_model_len"
            )


class AdaptiveCoursekitScheduler(CoursekitScheduler):
    """The same, adaptive unless told otherwise: a controller holds "itl_target_s".

    additional_config={"coursekit": {"itl_target_s": 0.2, "profile": "DEVICE/MODEL-vllm"}}, or
    {"controller": "aimd", "itl_target_s": 0.2} where there is no profile of the device.
    """

    default_scheduler = "adaptive"


class _Mirror(Request):
    """The policy's request for one of vLLM's; name: that one's id."""

    __slots__ = ("name",)
