"""What all live engines share: a clock, requests by number, and a run from a source.

A live engine has no thread of its own. Whoever holds it calls `step` again and again, and may
add requests, drop them or turn the token budget between two steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from coursekit.request import Request
from coursekit.trace import Trace

IDLE_S = 0.02  # longest sleep while nothing is to be done, so that a stop is noticed soon


class Step(NamedTuple):
    """One iteration: times in seconds on the engine's clock, and what it ran.

    tokens: request index -> the token it got; finished: indices of requests that are done;
    preempted: indices of those that lost their KV blocks.
    """

    start_s: float
    end_s: float
    num_prefill_tokens: int
    num_decode_tokens: int
    tokens: dict[int, int]
    finished: tuple[int, ...]
    preempted: tuple[int, ...]

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


class LiveEngine:
    """Base of engines on a real clock; seconds count from its creation or `restart_clock`.

    label: "live (device)". max_token_budget, max_model_len: what it was built for, most tokens of
    an iteration and of a request; vocab_size: token ids are below it. requests: index -> request, of those that are not done.
    """

    label: str
    max_token_budget: int
    max_model_len: int
    vocab_size: int

    def __init__(self):
        self.requests: dict[int, Request] = {}
        self._next_index = 0
        self._began = time.perf_counter()

    # --- What each engine does its own way ---

    def step(self) -> Step | None:
        """Run one iteration; None if there was nothing to run."""
        raise NotImplementedError

    def trace(self) -> Trace:
        """The record so far, requests that are not done included."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the device. The engine can't be used afterwards."""

    def _add(self, request: Request, prompt_token_ids: list[int]) -> None:
        raise NotImplementedError

    def _drop(self, request: Request) -> None:
        raise NotImplementedError

    def _begin_record(self) -> None:
        """Forget what was recorded; there are no requests."""
        raise NotImplementedError

    def _set_token_budget(self, token_budget: int) -> None:
        raise NotImplementedError

    def _get_token_budget(self) -> int:
        raise NotImplementedError

    # --- What is the same for all ---

    @property
    def has_requests(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.requests)

    @property
    def token_budget(self) -> int:
        """Most tokens of the next iterations; may be set between steps to 1..max_token_budget."""
        return self._get_token_budget()

    @token_budget.setter
    def token_budget(self, token_budget: int) -> None:
        if not 1 <= token_budget <= self.max_token_budget:
            raise ValueError(
                f"token_budget must be in 1..{self.max_token_budget}, what the engine was "
                f"started with, got {token_budget}"
            )
        self._set_token_budget(token_budget)

    def now_s(self) -> float:
        """Seconds on the engine's clock."""
        return time.perf_counter() - self._began

    def restart_clock(self) -> None:
        """Let the clock begin at 0 now. Raises RuntimeError while there are requests."""
        if self.has_requests:
            raise RuntimeError(f"{len(self.requests)} requests run; finish or drop them first")
        self._began = time.perf_counter()

    def submit(
        self, prompt: int | Sequence[int], max_tokens: int, priority_class: str = "medium"
    ) -> int:
        """Add a request that arrives now, and return its index.

        prompt: token ids, or how many random ones. Raises ValueError for what can't be served.
        """
        ids = None if isinstance(prompt, int) else list(prompt)
        length = prompt if ids is None else len(ids)
        request = Request(
            self._next_index, self.now_s(), length, max_tokens, priority_class=priority_class
        )
        self.add_request(request, ids)
        return request.index

    def add_request(
        self, request: Request, prompt_token_ids: Sequence[int] | None = None
    ) -> None:
        """Add a request that `arrival_s` on the engine's clock has brought.

        prompt_token_ids: those of the request, or random ones drawn by its index, if None.
        Raises ValueError for what can't be served, and then nothing has been added.
        """
        if request.index in self.requests:
            raise ValueError(f"request {request.index} runs already; give each its own index")
        ids = prompt_token_ids if prompt_token_ids is not None else request.token_ids
        if ids is None:
            ids = random_token_ids(self.vocab_size, request.num_prompt_tokens, request.index)
        request.token_ids = None  # the engine keeps them; the scheduler has no use for them
        self._add(request, list(ids))
        self.requests[request.index] = request
        self._next_index = max(self._next_index, request.index + 1)

    def cancel(self, index: int) -> None:
        """Drop a request. It stays in the record, unfinished. Raises ValueError if unknown."""
        if index not in self.requests:
            raise ValueError(f"request {index} is not running; it may be done already")
        self._drop(self.requests.pop(index))

    def run(
        self,
        source,
        until_s: float = math.inf,
        on_step: Callable[[Step], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> Trace:
        """Serve what `source` sends, in real time, until all is done, and return the record.

        source: see `coursekit.workload`. The clock starts at 0, and the record anew. Ends early
        when it passes `until_s` seconds or `should_stop`, asked before each step, says so.
        """
        self.restart_clock()
        self._begin_record()
        while self.now_s() < until_s and not (should_stop is not None and should_stop()):
            if source.next_arrival_s <= self.now_s():
                for request in source.take(self.now_s()):
                    self.add_request(request)
            if not self.has_requests:
                if source.next_arrival_s == math.inf:
                    break
                time.sleep(min(max(source.next_arrival_s - self.now_s(), 0), IDLE_S))
                continue
            running = dict(self.requests)
            step = self.step()
            if step is None:
                continue
            for index in step.finished:
                source.finished(running[index], step.end_s)
            if on_step is not None:
                on_step(step)
        return self.trace()


def random_token_ids(vocab_size: int, num_tokens: int, seed: int) -> list[int]:
    """`num_tokens` token ids below `vocab_size`, the same for the same seed."""
    return np.random.default_rng(seed).integers(0, vocab_size, num_tokens).tolist()
