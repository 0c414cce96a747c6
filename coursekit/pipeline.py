"""The loop over a pipeline: the model's layers in stages, and a batch in each of them.

As in vLLM V0, there are as many schedulers as stages, each with its own requests and its share
of the KV blocks; a request stays with the one it was given to on arrival. While one's batch is
in the second stage, the next one's is in the first. Batches keep their order, so one that
takes long holds up all behind it: where times vary, stages stand idle (bubbles).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from coursekit.batch import Batch
from coursekit.cost.base import CostModel
from coursekit.recorder import Recorder
from coursekit.schedulers.base import Scheduler
from coursekit.trace import Trace


class Lane:
    """One scheduler with its record, and the batch of it that is under way."""

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.recorder = Recorder(scheduler)
        self.batch: Batch | None = None
        self.start_s = self.end_s = 0.0  # when it was decided, and when it leaves the last stage
        self.idle = True

    @property
    def num_unfinished(self) -> int:
        """Requests that wait or run here."""
        return len(self.scheduler.waiting) + len(self.scheduler.running)


class PipelineEngine:
    """Runs a workload through one scheduler per lane and one cost model per stage.

    stages: seconds of a batch in each stage, in order; send_s: seconds per token from one stage
    to the next, during which neither stage waits. busy_s: how long each stage has worked.
    Raises ValueError without a scheduler or a stage.
    """

    def __init__(
        self, schedulers: Sequence[Scheduler], stages: Sequence[CostModel], send_s: float = 0.0
    ):
        if not schedulers or not stages:
            raise ValueError(
                f"a pipeline needs at least 1 scheduler and 1 stage, got {len(schedulers)} and "
                f"{len(stages)}"
            )
        self.lanes = [Lane(scheduler) for scheduler in schedulers]
        self.stages = list(stages)
        self.send_s = send_s
        self.label = stages[0].label
        self.busy_s = [0.0] * len(stages)
        self._free_s = [0.0] * len(stages)  # when each stage has done all that was sent to it

    def run(self, source, until_s: float = math.inf) -> list[Trace]:
        """Serve what `source` sends, as `Engine.run` does; the record of each lane.

        An iteration of a record lasts from the decision to the end of the last stage.
        """
        due: list[tuple[float, int]] = []  # (when its batch ends, lane)
        while due or source.next_arrival_s < until_s:
            now = min(due[0][0] if due else math.inf, source.next_arrival_s)
            if now >= until_s:
                break
            if source.next_arrival_s <= now:
                self._take(source, now, due)
            while due and due[0][0] <= now:
                _, place = heapq.heappop(due)
                self._turn(place, source, now, due)
        return [self._trace(place) for place in range(len(self.lanes))]

    def _trace(self, place: int) -> Trace:
        lane = self.lanes[place]
        info = {"scheduler": lane.scheduler.settings(), "lane": place}
        return lane.recorder.trace(self.label, info)

    def _take(self, source, now: float, due: list) -> None:
        """Give each arrival to the lane with the fewest requests, and wake it."""
        for request in source.take(now):
            place = min(range(len(self.lanes)), key=lambda k: self.lanes[k].num_unfinished)
            lane = self.lanes[place]
            lane.scheduler.add_request(request)
            if lane.idle:
                lane.idle = False
                heapq.heappush(due, (now, place))

    def _turn(self, place: int, source, now: float, due: list) -> None:
        """Account for the lane's batch that has ended; send its next once stage 1 is free."""
        lane = self.lanes[place]
        if lane.batch is not None:
            lane.scheduler.observe(lane.batch, lane.end_s - lane.start_s)
            for request in lane.scheduler.update(lane.batch):
                lane.recorder.finished(request, lane.end_s)
                source.finished(request, lane.end_s)
            lane.batch = None
        if self._free_s[0] > now:  # others are before it
            heapq.heappush(due, (self._free_s[0], place))
            return
        batch = self._decide(lane)
        if batch is None:
            lane.idle = True
            return
        lane.batch, lane.start_s, lane.end_s = batch, now, self._pass(batch, now)
        lane.recorder.record(batch, now, lane.end_s)
        heapq.heappush(due, (lane.end_s, place))

    def _decide(self, lane: Lane) -> Batch | None:
        """The lane's next batch, None if it has nothing to run."""
        evicted = []
        while True:
            batch = lane.scheduler.schedule()
            batch.preempted[:0] = evicted
            if batch.num_decodes or batch.chunks:
                return batch
            if not batch.preempted or batch.preempted == evicted:
                break
            evicted = batch.preempted  # room was made and nobody ran: decide again at once
        if lane.scheduler.has_requests:
            raise RuntimeError(
                f"{lane.num_unfinished} requests wait and {type(lane.scheduler).__name__} can't "
                "run any of them; check its limits"
            )
        return None

    def _pass(self, batch: Batch, now: float) -> float:
        """Send a batch through the stages from `now` on; when it has left the last."""
        send_s = self.send_s * batch.num_tokens
        for k, cost in enumerate(self.stages):
            at_s = now + (send_s if k else 0.0)
            start_s = max(at_s, self._free_s[k])
            took_s = cost.iteration_s(batch.num_decodes, batch.decode_context, batch.chunks)
            self._free_s[k] = now = start_s + took_s
            self.busy_s[k] += took_s
        return now
