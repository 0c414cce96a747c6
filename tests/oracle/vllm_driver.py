"""vLLM's own scheduler without a model: what does it decide, step by step?

The scheduler of `vllm/v1/core/sched/scheduler.py` is plain Python; it wants a configuration,
for which a folder with a tiny `config.json` is enough. Written for vLLM 0.32. Importing this
module imports vllm.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

_ENVIRONMENT = dict(os.environ)
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# the CPU build says at every start that it has no compiled kernels; no kernel runs here
logging.getLogger("vllm").setLevel(logging.ERROR)

import torch  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm import config as vllm_config  # noqa: E402
from vllm.utils.hashing import sha256  # noqa: E402
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash  # noqa: E402
from vllm.v1.core.sched.output import SchedulerOutput  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402
from vllm.v1.kv_cache_interface import (  # noqa: E402
    FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec,
)  # fmt: skip
from vllm.v1.outputs import ModelRunnerOutput  # noqa: E402
from vllm.v1.request import Request  # noqa: E402
from vllm.v1.structured_output import StructuredOutputManager  # noqa: E402

from tests.oracle.schedule import Step  # noqa: E402
from tests.oracle.strategies import GENERATED_TOKEN, Arrival, Case, Settings  # noqa: E402

logging.getLogger("vllm").setLevel(logging.ERROR)
# importing vLLM for CPUs sets LD_PRELOAD and more, which our children would inherit
os.environ.clear()
os.environ.update(_ENVIRONMENT)

SMALLEST_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32",
    "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1,
    "num_hidden_layers": 1, "vocab_size": 16, "max_position_embeddings": 4096,
}  # fmt: skip


def steps_of_vllm(case: Case) -> Iterator[Step]:
    """Run a case through vLLM's scheduler, one step at a time."""
    scheduler, now = _make_scheduler(case.settings), 0
    requests = [_make_request(k, a, case.settings) for k, a in enumerate(case.arrivals)]
    coming = deque(zip(case.arrivals, requests, strict=True))
    while coming or scheduler.requests:
        while coming and coming[0][0].arrival_step <= now:
            scheduler.add_request(coming.popleft()[1])
        scheduler.max_num_scheduled_tokens = case.settings.budget_at(now)
        output = scheduler.schedule()
        yield _read(scheduler, output)
        scheduler.update_from_output(output, _pretend_to_run(scheduler, output))
        now += 1


def _read(scheduler: Scheduler, output: SchedulerOutput) -> Step:
    """A decision in the oracle's words; vLLM counts its tokens as computed already."""
    return Step(
        chunks={
            int(name): (scheduler.requests[name].num_computed_tokens - num_tokens, num_tokens)
            for name, num_tokens in output.num_scheduled_tokens.items()
        },
        preempted=tuple(sorted(int(name) for name in output.preempted_req_ids or ())),
        num_free=scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
    )


def _pretend_to_run(scheduler: Scheduler, output: SchedulerOutput) -> ModelRunnerOutput:
    """What a model would return: a token for each request that has no more to compute."""
    names, sampled = list(output.num_scheduled_tokens), []
    for name in names:
        request = scheduler.requests[name]
        caught_up = request.num_computed_tokens >= request.num_tokens
        sampled.append([GENERATED_TOKEN] if caught_up else [])
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: place for place, name in enumerate(names)},
        sampled_token_ids=sampled, logprobs=None, prompt_logprobs_dict={}, pooler_output=[],
    )  # fmt: skip


def _make_request(index: int, arrival: Arrival, settings: Settings) -> Request:
    hasher = get_request_block_hasher(settings.block_size, sha256)
    return Request(
        request_id=str(index),
        prompt_token_ids=arrival.token_ids,
        sampling_params=_sampling(arrival.max_tokens),
        pooling_params=None,
        arrival_time=float(index),
        priority=arrival.priority,
        block_hasher=hasher if settings.caches_prefixes else None,
    )


@cache
def _sampling(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, ignore_eos=True, temperature=0)


def _make_scheduler(settings: Settings) -> Scheduler:
    size = settings.block_size
    num_blocks = settings.num_blocks + 1  # vLLM keeps one for itself, the null block
    spec = FullAttentionSpec(block_size=size, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = _make_config(settings)
    config.cache_config.num_gpu_blocks = num_blocks
    return Scheduler(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=num_blocks, kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=size,
        log_stats=False,
    )  # fmt: skip


def _make_config(settings: Settings) -> vllm_config.VllmConfig:
    return vllm_config.VllmConfig(
        model_config=_model(settings.max_model_len),
        scheduler_config=vllm_config.SchedulerConfig(
            max_num_batched_tokens=settings.token_budget,
            max_num_seqs=settings.max_num_seqs,
            max_model_len=settings.max_model_len,
            long_prefill_token_threshold=settings.long_prefill_token_threshold,
            enable_chunked_prefill=settings.enable_chunked_prefill,
            policy="priority" if settings.by_priority else "fcfs",
            scheduler_reserve_full_isl=settings.reserve_full_isl,
            is_encoder_decoder=False,
            async_scheduling=False,
        ),
        cache_config=vllm_config.CacheConfig(
            block_size=settings.block_size, enable_prefix_caching=settings.caches_prefixes
        ),
        parallel_config=vllm_config.ParallelConfig(),
        device_config=vllm_config.DeviceConfig("cpu"),
    )


@cache
def _model(max_model_len: int) -> vllm_config.ModelConfig:
    """vLLM's view of a model that exists as a configuration only; also sets up block hashing."""
    init_none_hash(sha256)
    folder = tempfile.mkdtemp(prefix="smallest-llama-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder, "config.json").write_text(json.dumps(SMALLEST_LLAMA))
    return vllm_config.ModelConfig(
        model=folder, skip_tokenizer_init=True, dtype="float32", max_model_len=max_model_len, seed=0
    )
