"""vLLM as a live engine: in this process, one step at a time, with the same record as ours.

vLLM's scheduler reads its token budget anew at every step, so the budget turns live, without a
restart. Every step's decision is seen as it leaves the scheduler. Written for vLLM 0.32; vllm is
imported when an engine is made.
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
from types import SimpleNamespace

from coursekit.batch import Batch, Chunk
from coursekit.device import detect_device
from coursekit.live.base import LiveEngine, Step
from coursekit.recorder import Recorder
from coursekit.request import Request
from coursekit.trace import Trace

# Read by vLLM as it is imported; a value set outside wins.
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
}  # fmt: skip
RUN_PROMPTS_WHOLE = ("prefill-first", "decode-first", "orca-mixed")
ADAPTER = "coursekit.deploy.vllm_scheduler.CoursekitScheduler"


class VllmEngine(LiveEngine):
    """Serves requests by vLLM; greedily, each to exactly its max_tokens.

    model: a folder, or None for the course's model. max_token_budget: vLLM's
    max_num_batched_tokens, up to which the budget may be turned. scheduler: None for vLLM's own, or
    a name in `coursekit.schedulers.NAMES`, which then decides inside vLLM, or the options of
    `coursekit.deploy.CoursekitScheduler`. num_threads: of a
    CPU; None leaves it to vLLM. engine_args: further ones of vLLM's `EngineArgs`.
    engine: the `LLMEngine`; scheduler: vLLM's live scheduler.

    One engine at a time in a process. Raises RuntimeError without vLLM, and ValueError for
    limits out of range and for what `EngineArgs` refuses.
    """

    def __init__(
        self,
        model: str | None = None,
        max_token_budget: int = 2048,
        max_num_seqs: int = 16,
        max_model_len: int = 4096,
        scheduler: str | dict | None = None,
        num_threads: int | None = None,
        **engine_args,
    ):
        super().__init__()
        _check(max_token_budget, max_num_seqs, max_model_len)
        self.max_token_budget, self.max_model_len = max_token_budget, max_model_len
        on_cpu = detect_device().kind == "cpu"
        own = {"scheduler": scheduler} if isinstance(scheduler, str) else scheduler
        name = own and own.get("scheduler")
        room = _room(name, max_token_budget, max_num_seqs, max_model_len)
        args = {
            "model": _folder(model), "max_num_batched_tokens": room,
            "max_num_seqs": max_num_seqs, "max_model_len": max_model_len,
            "async_scheduling": False, "enable_prefix_caching": False,
            "enforce_eager": on_cpu, **engine_args,
        }  # fmt: skip
        if own is not None:
            own = {"token_budget": max_token_budget, **own}
            args |= {"scheduler_cls": ADAPTER, "additional_config": {"coursekit": own}}
        self.engine, version = _start(args, num_threads)
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self._adapted = own is not None
        self.label = f"live ({detect_device().label()}, vLLM {version})"
        self.vocab_size = self.engine.model_config.get_vocab_size()
        self._ids: dict[int, str] = {}  # our index -> vLLM's id
        self._indices: dict[str, int] = {}
        self._running: set[int] = set()
        self._decided, self._contexts = None, {}
        self._view = _view(self.scheduler)
        self._recorder = Recorder(self._view)
        self._watch()

    def _watch(self) -> None:
        """See each decision as it leaves the scheduler, with the queues as they are then."""
        decide = self.scheduler.schedule

        def schedule(*args, **kwargs):
            output = self._decided = decide(*args, **kwargs)
            requests = self.scheduler.requests
            self._contexts = {  # the scheduler counts the step's tokens as computed already
                name: requests[name].num_computed_tokens - count
                for name, count in output.num_scheduled_tokens.items()
            }
            self._look_at_queues()
            return output

        self.scheduler.schedule = schedule

    def _look_at_queues(self) -> None:
        """What the recorder reads, as of now."""
        running = {self._indices.get(request.request_id) for request in self.scheduler.running}
        view = self._view
        view.running = [r for index, r in self.requests.items() if index in running]
        view.waiting = [r for index, r in self.requests.items() if index not in running]
        view.kv.num_free = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()

    def step(self) -> Step | None:
        """Run one iteration of vLLM; None if it ran no token.

        If it fails, the engine can only be closed: what vLLM holds is not known any more.
        """
        start_s = self.now_s()
        self._decided = None
        outputs = self.engine.step()
        end_s = self.now_s()
        if self._decided is None or not self._decided.num_scheduled_tokens:
            return None
        batch = self._batch(self._decided)
        self._recorder.record(batch, start_s, end_s)
        for request, num_tokens, context in batch.chunks:
            request.num_computed_tokens = context + num_tokens
        tokens, finished = self._take(outputs, end_s)
        num_prefill = self._recorder.num_prefill_tokens
        return Step(
            start_s, end_s, num_prefill, batch.num_tokens - num_prefill, tokens, finished,
            tuple(request.index for request in batch.preempted),
        )  # fmt: skip

    def _batch(self, output) -> Batch:
        """A decision of vLLM in our words."""
        batch = Batch()
        for name in output.preempted_req_ids or ():
            request = self.requests[self._indices[name]]
            request.num_preemptions += 1
            request.num_computed_tokens = 0
            self._running.discard(request.index)
            batch.preempted.append(request)
        for name, num_tokens in output.num_scheduled_tokens.items():
            request = self.requests[self._indices[name]]
            batch.chunks.append(Chunk(request, num_tokens, self._contexts[name]))
            if request.index not in self._running:
                self._running.add(request.index)
                batch.admitted.append(request)
                if not request.num_preemptions:
                    request.num_cached_tokens = self._contexts[name]
        return batch

    def _take(self, outputs, end_s: float) -> tuple[dict[int, int], tuple[int, ...]]:
        """The new tokens, by request, and who is done."""
        tokens, finished = {}, []
        for output in outputs:
            index = int(output.request_id)
            request, new = self.requests[index], output.outputs[0].token_ids
            if new:
                tokens[index] = new[-1]
                request.num_output_tokens += len(new)
            if output.finished:
                finished.append(index)
                self._recorder.finished(request, end_s)
                self._forget(index)
        return tokens, tuple(finished)

    def _forget(self, index: int) -> None:
        self.requests.pop(index, None)
        del self._indices[self._ids.pop(index)]
        self._running.discard(index)

    def trace(self) -> Trace:
        self._look_at_queues()
        kv, config = self._view.kv, self.scheduler.scheduler_config
        decides = type(self.scheduler.policy).__name__ if self._adapted else "vLLM"
        settings = {
            "name": decides, "token_budget": self.token_budget,
            "max_num_seqs": config.max_num_seqs, "max_model_len": self.max_model_len,
            "num_blocks": kv.num_blocks, "block_size": self.scheduler.block_size,
        }  # fmt: skip
        return self._recorder.trace(self.label, {"scheduler": settings})

    def close(self) -> None:
        """Shut vLLM down and drop it. Harmless when repeated."""
        if self.engine is None:
            return
        self.engine.engine_core.shutdown()
        self.engine = self.scheduler = None
        self.requests.clear()
        gc.collect()

    def _add(self, request: Request, prompt_token_ids: list[int]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        longest = request.num_prompt_tokens + request.max_tokens
        if longest > self.max_model_len:
            raise ValueError(
                f"request {request.index} may reach {longest} tokens, max_model_len is "
                f"{self.max_model_len}; shorten it or start the engine with more"
            )
        if bad := [token for token in prompt_token_ids if not 0 <= token < self.vocab_size]:
            raise ValueError(
                f"token ids must be in 0..{self.vocab_size - 1}, got {bad[0]}; use this "
                "model's tokenizer"
            )
        params = SamplingParams(
            temperature=0, max_tokens=request.max_tokens, ignore_eos=True, detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"priority_class": request.priority_class},
        )  # fmt: skip
        name = self.engine.add_request(
            str(request.index), {"prompt_token_ids": prompt_token_ids}, params
        )
        self._ids[request.index], self._indices[name] = name, request.index

    def _drop(self, request: Request) -> None:
        self.engine.abort_request([self._ids[request.index]], internal=True)
        self._recorder.finished(request, float("nan"))
        self._forget(request.index)

    def _begin_record(self) -> None:
        self._recorder = Recorder(self._view)

    def _get_token_budget(self) -> int:
        if self._adapted:
            return self.scheduler.token_budget
        return self.scheduler.max_num_scheduled_tokens

    def _set_token_budget(self, token_budget: int) -> None:
        if self._adapted:
            self.scheduler.token_budget = token_budget
        else:
            self.scheduler.max_num_scheduled_tokens = token_budget


def _view(scheduler) -> SimpleNamespace:
    """What `Recorder` reads of a scheduler; vLLM keeps one block for itself."""
    num_blocks = scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1
    group = SimpleNamespace(runs=((), (), ()), clock=0, num_steps_of=lambda request: 0)
    kv = SimpleNamespace(num_blocks=num_blocks, num_free=num_blocks)
    return SimpleNamespace(kv=kv, group=group, running=[], waiting=[])


def _folder(model: str | None) -> str:
    from coursekit.models import resolve_model

    return str(resolve_model(model))


def _start(args: dict, num_threads: int | None):
    """The engine and vLLM's version. The environment is left as it was: importing vLLM for CPUs
    sets LD_PRELOAD and more, which our children would inherit."""
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError("vLLM is not installed here; `make doctor` says how to get it")
    before = dict(os.environ)
    try:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        if num_threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(num_threads)
            os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        logging.getLogger("vllm").setLevel(logging.WARNING)
        import vllm
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        engine = LLMEngine.from_engine_args(EngineArgs(**args))
        if num_threads is not None:
            import torch

            torch.set_num_threads(num_threads)
        return engine, vllm.__version__
    finally:
        os.environ.clear()
        os.environ.update(before)


def _room(scheduler: str | None, budget: int, max_num_seqs: int, max_model_len: int) -> int:
    """Most tokens that an iteration may have: some of our policies pass their budget."""
    if scheduler in RUN_PROMPTS_WHOLE:
        return max(budget, max_model_len) + max_num_seqs
    return budget + max_num_seqs if scheduler == "interleaved" else budget


def _check(max_token_budget: int, max_num_seqs: int, max_model_len: int) -> None:
    for name, value in (("max_num_seqs", max_num_seqs), ("max_model_len", max_model_len)):
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if max_token_budget < max_num_seqs:
        raise ValueError(
            f"max_token_budget must be >= max_num_seqs {max_num_seqs}, as vLLM wants a token for "
            f"each request, got {max_token_budget}"
        )
