"""The loop of an engine that decides one iteration ahead, as vLLM does with async scheduling.

While an iteration runs, the next one is decided, so that the device need not wait for the
host. The price is that the decision is older by one iteration: it knows only the requests that
had arrived when the running iteration began, and what a request that finishes in it holds is
not free yet. That a request gets a token in it is known beforehand; which one, need not be.
Source: `EngineCore.step_with_batch_queue` of vLLM 0.32, `v1/engine/core.py`.
"""

from __future__ import annotations

import math

from coursekit.recorder import Recorder
from coursekit.schedulers.base import Scheduler
from coursekit.trace import Trace


class AheadEngine:
    """Like `coursekit.engine.Engine`, with every decision made an iteration earlier.

    It never jumps. An iteration's start is when it runs; it was decided when the one before
    it started. Requests must run to their max_tokens: an end that comes as a surprise would be
    noticed one iteration too late, which vLLM bears and this loop has no need to.
    """

    def __init__(self, scheduler: Scheduler, executor):
        self.scheduler = scheduler
        self.executor = executor

    def run(self, source) -> Trace:
        """Serve what `source` sends until all is done.

        Raises RuntimeError if requests wait and the scheduler can't run any of them.
        """
        scheduler, executor, recorder = self.scheduler, self.executor, Recorder(self.scheduler)
        now, known_s, held, evicted = 0.0, 0.0, _Held(scheduler), []
        while True:
            for request in source.take(known_s):
                scheduler.add_request(request)
            batch = held.schedule()
            batch.preempted[:0], evicted = evicted, []
            if not batch.num_decodes and not batch.chunks:
                if batch.preempted or held.num_blocks or known_s < now:
                    # room was made, or what happened meanwhile is known now: decide again
                    evicted, known_s = batch.preempted, now
                    held.free()
                    continue
                if source.next_arrival_s == math.inf:
                    break
                now = known_s = max(now, source.next_arrival_s)
                continue
            start, now = now, now + executor.execute(batch)
            recorder.record(batch, start, now)
            scheduler.observe(batch, now - start)
            for request in held.update(batch):
                recorder.finished(request, now)
                source.finished(request, now)
            known_s = start
        if scheduler.has_requests:
            raise RuntimeError(
                f"{len(scheduler.waiting)} requests wait and {type(scheduler).__name__} can't run "
                f"any of them, first {next(iter(scheduler.waiting), None)}; check its limits"
            )
        settings = {**scheduler.settings(), "async_scheduling": True}
        return recorder.trace(executor.label, {"scheduler": settings, "extrapolated": False})


class _Held:
    """KV blocks and places of requests that have finished and are not known to have."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.num_blocks = self.num_requests = 0

    def schedule(self):
        """A decision that does not count with them; afterwards they are free."""
        scheduler = self.scheduler
        scheduler.kv.num_free -= self.num_blocks
        scheduler.max_num_seqs -= self.num_requests
        batch = scheduler.schedule()
        scheduler.kv.num_free += self.num_blocks
        scheduler.max_num_seqs += self.num_requests
        if batch.num_decodes or batch.chunks:
            self.free()
        return batch

    def update(self, batch) -> list:
        """Account for a batch, and hold what its finished requests have had."""
        before = self.scheduler.kv.num_free
        finished = self.scheduler.update(batch)
        self.num_blocks = self.scheduler.kv.num_free - before
        self.num_requests = len(finished)
        return finished

    def free(self) -> None:
        self.num_blocks = self.num_requests = 0
