"""The loop: a scheduler picks a batch, an executor runs it, the record grows by one row.

This is all that a serving engine does. What differs between a simulation and a live model is
the executor; what differs between policies is the scheduler; neither knows of the other.
"""

from __future__ import annotations

import math

from coursekit.jump import jump
from coursekit.recorder import Recorder
from coursekit.schedulers.base import Scheduler
from coursekit.trace import Trace


class Engine:
    """Runs a workload through `scheduler` and `executor`.

    jump: skip over stretches in which nothing but decoding happens, where a cost model can
    tell their times ahead. The record is the same either way.
    """

    def __init__(self, scheduler: Scheduler, executor, jump: bool = True):
        self.scheduler = scheduler
        self.executor = executor
        self.jump = jump

    def run(self, source, until_s: float = math.inf) -> Trace:
        """Serve what `source` sends until all is done, or until the clock passes `until_s`.

        source: see `coursekit.workload`. Times in seconds. Raises RuntimeError if requests
        wait and the scheduler can't run any of them.
        """
        scheduler, executor, recorder = self.scheduler, self.executor, Recorder(self.scheduler)
        execute, record = executor.execute, recorder.record
        observe = scheduler.observe
        schedule, update, now = scheduler.schedule, scheduler.update, 0.0
        evicted = []  # in a decision that ran nothing, and so left no row
        jumps = self.jump and scheduler.can_jump and hasattr(executor, "cost")
        while now < until_s:
            if source.next_arrival_s <= now:
                for request in source.take(now):
                    scheduler.add_request(request)
            batch = schedule()
            if evicted:
                batch.preempted[:0], evicted = evicted, []
            if not batch.num_decodes and not batch.chunks:
                if batch.preempted:  # room was made and nobody ran: decide again at once
                    evicted = batch.preempted
                    continue
                if source.next_arrival_s == math.inf:
                    break
                now = max(now, source.next_arrival_s)
                continue
            start, now = now, now + execute(batch)
            record(batch, start, now)
            observe(batch, now - start)
            finished = update(batch)
            for request in finished:
                recorder.finished(request, now)
                source.finished(request, now)
            if jumps and not (finished or batch.chunks or batch.preempted or scheduler.catching_up):
                event_s = min(source.next_arrival_s, until_s)
                now = jump(scheduler, executor, recorder, now, now - start, event_s)
        if scheduler.has_requests and now < until_s:
            raise RuntimeError(
                f"{len(scheduler.waiting)} requests wait and {type(scheduler).__name__} can't run "
                f"any of them, first {next(iter(scheduler.waiting), None)}; check its limits"
            )
        info = {"scheduler": scheduler.settings(), "extrapolated": _is_extrapolated(executor)}
        return recorder.trace(executor.label, info)


def _is_extrapolated(executor) -> bool:
    """Whether a calibrated cost was asked for batches outside what it was measured with."""
    return bool(getattr(getattr(executor, "cost", None), "extrapolated", False))
