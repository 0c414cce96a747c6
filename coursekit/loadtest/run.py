"""A load test: the source says who sends when, a task per request sends and listens.

The sources are those of the simulator (`coursekit.workload`): an open one sends on schedule
however slow the server is, a closed one is users who wait for their answers.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from coursekit.loadtest.client import Target, body_of, find_target, open_session, send
from coursekit.loadtest.lag import ClientLag, LoopLag
from coursekit.loadtest.outcome import NOT_SENT, Outcome
from coursekit.loadtest.result import LoadTestResult, make_result
from coursekit.loadtest.workloads import prompt_of
from coursekit.request import Request
from coursekit.workload import ClosedLoop, Workload

STOP_S = 0.2  # how often a run looks whether it is to stop
GRACE_S = 10.0  # beyond the time that a run can take if every request keeps its limit


def load_test(
    url: str,
    workload: Workload,
    *,
    num_users: int | None = None,
    think_s: float = 0.0,
    model: str | None = None,
    api_key: str | None = None,
    device: str = "",
    seed: int | None = None,
    timeout_s: float = 300.0,
    deadline_s: float | None = None,
    send_priority: bool = False,
    on_outcome: Callable[[Outcome], None] | None = None,
    stop: threading.Event | None = None,
) -> LoadTestResult:
    """Send `workload` to the server at `url` ("http://127.0.0.1:8000") and record what comes.

    Open loop: each request at its arrival. With num_users, closed loop: the lengths, in order,
    by so many users, each thinking think_s seconds between answer and next request; arrivals
    don't count then. model: as the server names it (default: the first it names); device: what
    it runs on, for the label. seed: draws the prompts, unless the workload has token ids; None
    draws others in each run, because a server keeps what it has computed for a prompt.
    timeout_s: for one request; deadline_s: for the whole run (default: what it takes if each
    request keeps timeout_s). send_priority: send the workload's priorities too; a server that
    schedules first come, first served refuses those other than 0. on_outcome: called with each
    request that has ended, on the run's thread. stop: set it, or interrupt, and the run ends
    early with what it has.

    Failures are part of the result and raise nothing. Raises ValueError for a url, limit or
    number out of range, RuntimeError if no server names its model.
    """
    _check(url, workload, timeout_s, deadline_s)
    stop = stop or threading.Event()
    seed = secrets.randbits(32) if seed is None else seed
    source = workload.source()
    if num_users is not None:
        columns = workload.num_prompt_tokens, workload.num_output_tokens
        source = ClosedLoop(*columns, num_users, think_s)
    if deadline_s is None:
        deadline_s = _longest_s(workload, num_users, think_s, timeout_s)
    run = _Run(workload, source, seed, timeout_s, deadline_s, send_priority, on_outcome, stop)
    loop = {"kind": "open"} if num_users is None else {"kind": "closed", "num_users": num_users}
    settings = {"loop": loop, "seed": seed, "timeout_s": timeout_s, "deadline_s": deadline_s}

    async def whole() -> LoadTestResult:
        async with open_session(api_key) as session:
            target = await find_target(session, url, model)
            lag = await run.serve(session, target)
        return make_result(run.outcomes, workload, target, device, lag, settings)

    return _in_a_thread(whole, stop)


class _Run:
    """The state of a run: outcomes by index, tasks in flight."""

    def __init__(
        self, workload, source, seed, timeout_s, deadline_s, send_priority, on_outcome, stop
    ):
        self._workload, self._source, self._seed = workload, source, seed
        self._timeout_s, self._deadline_s = timeout_s, deadline_s
        self._send_priority, self._on_outcome, self._stop = send_priority, on_outcome, stop
        rows = (workload.arrival_s, workload.num_prompt_tokens, workload.num_output_tokens)
        columns = zip(*(column.tolist() for column in rows), strict=True)
        self.outcomes = [Outcome(index, *row, kind=NOT_SENT) for index, row in enumerate(columns)]
        self._tasks: set[asyncio.Task] = set()
        self._fault: BaseException | None = None  # of ours or the caller's, not the server's

    async def serve(self, session, target: Target) -> ClientLag:
        """Send all that the source has, wait for the answers; return the client's lag."""
        loop_lag = LoopLag()
        sampler = asyncio.create_task(loop_lag.sample())
        began, self._changed = time.perf_counter(), asyncio.Event()
        self._session, self._target = session, target
        self._clock = lambda: time.perf_counter() - began
        while not (self._stop.is_set() or self._fault) and (now_s := self._clock()) < self._deadline_s:
            for request in self._source.take(now_s):
                task = asyncio.create_task(self._serve_one(request))
                self._tasks.add(task)
                task.add_done_callback(self._done)
            wait_s = min(self._source.next_arrival_s - self._clock(), self._deadline_s - now_s)
            if self._source.next_arrival_s == math.inf and not self._tasks:
                break
            await self._wait(min(wait_s, STOP_S))
        await self._cancel_all()
        sampler.cancel()
        if self._fault is not None:
            raise self._fault
        return ClientLag.of(loop_lag.values_s, self.outcomes)

    async def _wait(self, seconds: float) -> None:
        """Until a request ends, at most `seconds`."""
        self._changed.clear()
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _serve_one(self, request: Request) -> None:
        index, more = request.index, {}
        outcome = self.outcomes[index]
        outcome.scheduled_s, outcome.kind = request.arrival_s, ""
        if self._send_priority:
            more["priority"] = int(self._workload.priority[index])
        prompt = prompt_of(self._workload, index, self._seed)
        body = body_of(self._target.model, prompt, outcome.max_tokens, **more)
        url = self._target.url
        await send(self._session, url, body, outcome, self._clock, self._timeout_s)
        self._source.finished(request, self._clock())
        if self._on_outcome is not None:
            self._on_outcome(outcome)

    def _done(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
        self._changed.set()

    async def _cancel_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _in_a_thread(whole: Callable, stop: threading.Event) -> LoadTestResult:
    """Run the coroutine in a thread of its own: a notebook's has a running event loop already."""
    with ThreadPoolExecutor(1, "load test") as pool:
        running = pool.submit(lambda: asyncio.run(whole()))
        try:
            return running.result()
        except KeyboardInterrupt:
            stop.set()
            return running.result()


def _longest_s(workload: Workload, num_users: int | None, think_s: float, timeout_s: float) -> float:
    if not len(workload):
        return GRACE_S
    if num_users is None:
        return float(workload.arrival_s[-1]) + timeout_s + GRACE_S
    return math.ceil(len(workload) / num_users) * (timeout_s + think_s) + GRACE_S


def _check(url: str, workload: Workload, timeout_s: float, deadline_s: float | None) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f'url must start with http:// or https://, got {url!r}: "http://host:port"')
    if not len(workload):
        raise ValueError("a load test needs at least 1 request, got 0")
    for name, value in (("timeout_s", timeout_s), ("deadline_s", deadline_s)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and > 0 s, got {value}")
