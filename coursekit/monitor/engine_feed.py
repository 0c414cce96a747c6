"""How a monitor hears of prefills and decodes from a live engine, step by step.

It counts as `trace_feed` does: a request's prefill is its chunks up to its first token; every token
after that is a decode, whatever lay between; the blocking of a prefill is its share, by tokens, of
what the iterations with decodes in them took beyond their decodes alone.
"""

from __future__ import annotations

from math import isnan, nan
from typing import TYPE_CHECKING

import numpy as np

from coursekit.schedulers.base import NO_LIMIT

if TYPE_CHECKING:
    from coursekit.live.base import LiveEngine, Step
    from coursekit.monitor.chunked_prefill import ChunkedPrefillMonitor
    from coursekit.request import Request


class _Prefill:
    """A prompt on its way."""

    __slots__ = ("request", "num_chunks", "num_computed", "blocking_s")

    def __init__(self, request: Request):
        self.request = request
        self.num_chunks, self.num_computed, self.blocking_s = 0, 0, 0.0


class EngineFeed:
    """An `on_step` that tells `monitor` what each step of `engine` did.

    Keeps a few numbers of each request that is not done. What decodes alone cost is the mean of
    the steps of decodes alone so far, by power of two of their number; until there was one, a
    prefill's blocking is not known. A request that comes and goes within one step had no row
    before it: its chunk is counted, its TTFT is not.
    """

    def __init__(self, monitor: ChunkedPrefillMonitor, engine: LiveEngine):
        self._monitor, self._engine = monitor, engine
        self._prefills: dict[int, _Prefill] = {}
        self._last_token_s: dict[int, float] = {}
        self._alone: dict[int, tuple[int, float]] = {}  # bit length -> number of steps, mean
        self._last_end_s = 0.0

    def __call__(self, step: Step) -> None:
        for index, request in self._engine.requests.items():
            if index not in self._prefills and index not in self._last_token_s:
                self._prefills[index] = _Prefill(request)
        self._see_chunks(step)
        self._see_tokens(step)
        for index in step.finished:
            self._last_token_s.pop(index, None)
        self._forget_dropped()
        self._see_iteration(step)

    def _see_chunks(self, step: Step) -> None:
        blocking_s = self._blocking_s(step)
        for index, prefill in self._prefills.items():
            request, before = prefill.request, prefill.num_computed
            if index in step.preempted:
                before = 0
            now = request.num_prompt_tokens if index in step.tokens else request.num_computed_tokens
            if now > before:
                prefill.num_chunks += 1
                share = min(1.0, (now - before) / max(1, step.num_prefill_tokens))
                prefill.blocking_s += blocking_s * share
            prefill.num_computed = now

    def _blocking_s(self, step: Step) -> float:
        """What the step's prefill made its decodes wait; nan if it is not known."""
        if not step.num_decode_tokens:
            return 0.0
        size = step.num_decode_tokens.bit_length()
        if not step.num_prefill_tokens:
            count, mean = self._alone.get(size, (0, 0.0))
            self._alone[size] = count + 1, mean + (step.duration_s - mean) / (count + 1)
            return 0.0
        if not self._alone:
            return nan
        nearest = min(self._alone, key=lambda known: abs(known - size))
        return max(0.0, step.duration_s - self._alone[nearest][1])

    def _see_tokens(self, step: Step) -> None:
        monitor, gaps_s = self._monitor, []
        for index in step.tokens:
            if (last_s := self._last_token_s.get(index)) is not None:
                gaps_s.append(step.end_s - last_s)
            elif (prefill := self._prefills.pop(index, None)) is not None:
                self._see_first_token(prefill, step.end_s)
            else:
                monitor.record_prefill(1, step.duration_s)
            self._last_token_s[index] = step.end_s
        monitor.record_many(np.array(gaps_s))

    def _see_first_token(self, prefill: _Prefill, now_s: float) -> None:
        request, monitor = prefill.request, self._monitor
        begun_s = request.first_scheduled_s
        blocking_s = None if isnan(prefill.blocking_s) else prefill.blocking_s
        monitor.record_prefill(max(1, prefill.num_chunks), now_s - begun_s, blocking_s)
        monitor.record_request("ttft_s", [now_s - request.arrival_s])
        monitor.record_request("queue_s", [begun_s - request.arrival_s])
        monitor.record_request("prompt_length", [request.num_prompt_tokens])
        monitor.record_request("output_length", [request.max_tokens])

    def _forget_dropped(self) -> None:
        """Requests that were cancelled never appear in a step again."""
        alive = self._engine.requests
        for known in (self._prefills, self._last_token_s):
            for index in [index for index in known if index not in alive]:
                del known[index]

    def _see_iteration(self, step: Step) -> None:
        requests = self._engine.requests.values()
        begun = sum(not isnan(request.first_scheduled_s) for request in requests)
        usage, num_kv_tokens = kv_state(self._engine)
        levels = {"running": begun, "waiting": len(requests) - begun}
        if usage is not None:
            levels["kv_usage"] = usage
        self._monitor.record_iterations(
            step.num_prefill_tokens, step.num_decode_tokens, step.duration_s,
            len(step.preempted), **levels,
        )  # fmt: skip
        if step.end_s < self._last_end_s:  # the clock was started anew
            self._last_end_s = 0.0
        self._monitor.record_span(step.end_s - self._last_end_s, self._engine.label, num_kv_tokens)
        self._last_end_s = step.end_s


def kv_state(engine: LiveEngine) -> tuple[float | None, float]:
    """Share of the KV blocks in use (None without a limit), and the tokens that all hold."""
    scheduler = engine.scheduler
    if (manager := getattr(scheduler, "kv_cache_manager", None)) is not None:  # vLLM's
        num_blocks = manager.block_pool.num_gpu_blocks
        return manager.usage, float(num_blocks * scheduler.block_size)
    kv = scheduler.kv
    if kv.num_blocks >= NO_LIMIT:
        return None, nan
    return 1 - kv.num_free / kv.num_blocks, float(kv.num_blocks * kv.block_size)
