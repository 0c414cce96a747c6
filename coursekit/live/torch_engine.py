"""The loop on our own model: any scheduler of the package, real tokens, a real clock.

Scheduler and executor are the ones that `engine` and `executors` describe. What is added here is
what a server needs: requests that come while it runs, and a step that may fail without harm.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from coursekit.batch import Batch
from coursekit.executors.torch_model import TorchExecutor
from coursekit.live.base import LiveEngine, Step
from coursekit.models.sampling import Sampling
from coursekit.recorder import Recorder
from coursekit.request import Request
from coursekit.schedulers.base import NO_LIMIT, Scheduler
from coursekit.schedulers.decode_group import DecodeGroup
from coursekit.trace import Trace

if TYPE_CHECKING:
    from coursekit.models.decoder import Decoder


class TorchEngine(LiveEngine):
    """Serves requests on `model` as `scheduler` decides.

    max_model_len: most tokens of one request; max_num_tokens: most tokens of one iteration (the
    token budget, where it is set, unless given); sampling: how tokens are chosen.
    Raises ValueError for a scheduler that shares prefixes (the KV slots here can't), and
    what `TorchExecutor` raises.
    """

    def __init__(
        self,
        model: Decoder,
        scheduler: Scheduler,
        max_model_len: int = 2048,
        max_num_tokens: int | None = None,
        sampling: Sampling | None = None,
    ):
        super().__init__()
        if scheduler.kv.caches_prefixes:
            raise ValueError(
                "each request has a KV slot of its own here, so prefixes can't be shared; give "
                "the scheduler a BlockCounter"
            )
        self.scheduler = scheduler
        self.max_model_len = max_model_len
        # the interleaved policy has no budget: what is turned is the size of its one chunk
        self._knob = "chunk_size" if scheduler.token_budget >= NO_LIMIT else "token_budget"
        self.max_token_budget = max_num_tokens or getattr(scheduler, self._knob)
        # some policies run a prompt whole, and most serve all decodes, whatever the budget says
        room = max(self.max_token_budget, max_model_len) + scheduler.max_num_seqs
        self.executor = TorchExecutor(
            model, scheduler.max_num_seqs, max_model_len, room, sampling
        )
        self.label = self.executor.label
        self.vocab_size = model.config.vocab_size
        self._recorder = Recorder(scheduler)
        self._evicted: list[Request] = []  # in a decision that ran nothing

    def step(self) -> Step | None:
        """Decide one iteration and run it; None if nobody could run.

        If it fails, in whatever way, the requests go back to waiting with the tokens they had,
        the KV cache is empty, and the next step starts them again.
        """
        start_s = self.now_s()
        batch = self._decide()
        if not batch.num_decodes and not batch.chunks:
            return None
        try:
            tokens = self.executor.execute(batch, self._decoding(batch))
        except BaseException:
            self._give_up(batch)
            raise
        return self._account(batch, tokens, start_s)

    def _decide(self) -> Batch:
        """The next batch. A decision that only made room is followed by another."""
        batch = self.scheduler.schedule()
        while batch.preempted and not batch.num_decodes and not batch.chunks:
            self._evicted += batch.preempted
            batch = self.scheduler.schedule()
        batch.preempted[:0], self._evicted = self._evicted, []
        if not batch.num_decodes and not batch.chunks and self.has_requests:
            raise RuntimeError(
                f"{len(self.requests)} requests wait and {type(self.scheduler).__name__} can't "
                "run any of them; check its limits"
            )
        return batch

    def _give_up(self, batch: Batch) -> None:
        """After a forward that failed: nobody keeps KV, so that nothing half-written is read."""
        losing = list(self.scheduler.running)
        self.scheduler.abandon(batch)
        self._evicted = batch.preempted + losing
        for request in losing:
            self.executor.release(request)

    def _decoding(self, batch: Batch) -> list[Request]:
        """Members of the decode group, if they are in the batch: all of them or none are."""
        if not batch.num_decodes:
            return []
        return [request for request in self.scheduler.running if request.entry_clock >= 0]

    def _account(self, batch: Batch, tokens: dict[Request, int], start_s: float) -> Step:
        end_s = self.now_s()
        self._recorder.record(batch, start_s, end_s)
        self.scheduler.observe(batch, end_s - start_s)
        finished = self.scheduler.update(batch)
        for request in finished:
            self._recorder.finished(request, end_s)
            self.executor.forget(request)
            del self.requests[request.index]
        num_prefill = self._recorder.num_prefill_tokens
        return Step(
            start_s, end_s, num_prefill, batch.num_tokens - num_prefill,
            {request.index: token for request, token in tokens.items()},
            tuple(request.index for request in finished),
            tuple(request.index for request in batch.preempted),
        )  # fmt: skip

    def trace(self) -> Trace:
        return self._recorder.trace(self.label, {"scheduler": self.scheduler.settings()})

    def close(self) -> None:
        """Drop the model and the KV cache; on a GPU their memory is free again."""
        is_cuda = self.executor.model.device.type == "cuda"
        del self.executor
        if is_cuda:
            import torch

            torch.cuda.empty_cache()

    def _add(self, request: Request, prompt_token_ids: list[int]) -> None:
        self.executor.add(request, prompt_token_ids)
        try:
            self.scheduler.add_request(request)
        except BaseException:
            self.executor.forget(request)
            raise

    def _drop(self, request: Request) -> None:
        self.scheduler.abort(request)
        self._recorder.finished(request, float("nan"))
        self.executor.forget(request)

    def _begin_record(self) -> None:
        # the group counts its steps from its beginning, and keeps who stayed how long
        self.scheduler.group = DecodeGroup(self.scheduler.kv.block_size)
        self._recorder = Recorder(self.scheduler)

    def _get_token_budget(self) -> int:
        return getattr(self.scheduler, self._knob)

    def _set_token_budget(self, token_budget: int) -> None:
        setattr(self.scheduler, self._knob, token_budget)
