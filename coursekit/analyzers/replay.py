"""A record read the other way round: what one iteration ran, and who got what around it.

A `Trace` holds columns that are cheap to write; whoever walks through a run asks for one
iteration, or for the cells of some requests in a stretch of them. Nothing here draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coursekit.trace import Trace


class Ran(NamedTuple):
    """One iteration: times in seconds, requests by index.

    prefills: (request, num_tokens, context) of each chunk; decodes: requests that got one token;
    waiting: requests that have arrived and have never run; standing: requests that have run
    before and get nothing now (also those that lost their KV blocks). worst_gap_s: the longest
    time between two tokens of a request, up to the end of this iteration; nan before the first.
    """

    iteration: int
    start_s: float
    end_s: float
    prefills: list[tuple[int, int, int]]
    decodes: list[int]
    waiting: list[int]
    standing: list[int]
    worst_gap_s: float

    @property
    def num_prefill_tokens(self) -> int:
        """Prompt tokens of all chunks."""
        return sum(num_tokens for _, num_tokens, _ in self.prefills)


class Cells(NamedTuple):
    """Requests in iterations, one row for each pair: three columns (num_cells,)."""

    request: np.ndarray
    iteration: np.ndarray
    num_tokens: np.ndarray


class Replay:
    """Answers about `trace`: any record, simulated, recorded or live.

    Raises ValueError for a record without iterations.
    """

    def __init__(self, trace: Trace):
        if not trace.num_iterations:
            raise ValueError(
                "a trace needs at least 1 iteration to be shown, got 0: run the engine until it "
                "has served something"
            )
        self.trace = trace
        self.num_iterations = trace.num_iterations
        self.start_s = trace.iterations["start_s"]
        self.end_s = trace.iterations["end_s"]
        self.requests = trace.requests["request"]  # in order
        self._steps = np.flatnonzero(trace.iterations["is_decode_step"] == 1)
        self._is_decode = self._which_chunks_decode()
        self.first_iteration, self.last_iteration = self._spans()
        begun_s = np.append(self.start_s, np.inf)[self.first_iteration]
        # live clocks differ a little: nobody arrives after having begun
        self.arrival_s = np.minimum(trace.requests["arrival_s"], begun_s)
        self._worst_gaps_s = self._longest_gaps_so_far()

    def at(self, moment_s: float) -> tuple[int, bool]:
        """The last iteration begun by `moment_s` seconds (-1: none), and whether it still runs."""
        iteration = int(np.searchsorted(self.start_s, moment_s, "right")) - 1
        return iteration, iteration >= 0 and moment_s < self.end_s[iteration]

    def iteration(self, iteration: int) -> Ran:
        """What an iteration ran. Raises ValueError for one that is not in the record."""
        if not 0 <= iteration < self.num_iterations:
            raise ValueError(
                f"iteration must be in 0..{self.num_iterations - 1}, got {iteration}: the record "
                f"has {self.num_iterations}"
            )
        chunks, chosen = self.trace.chunks, self._chunks_of(iteration, iteration + 1)
        prefills = chosen[~self._is_decode[chosen]]
        columns = (chunks[name][prefills].tolist() for name in ("request", "num_tokens", "context"))
        decodes = np.sort(self.decode_cells(iteration, iteration + 1).request)
        started, left = self.first_iteration < iteration, self.last_iteration < iteration
        ran = np.isin(self.requests, np.concatenate((decodes, chunks["request"][prefills])))
        waiting = self.first_iteration > iteration
        waiting &= self.arrival_s <= self.start_s[iteration]
        return Ran(
            iteration, float(self.start_s[iteration]), float(self.end_s[iteration]),
            list(zip(*columns)), decodes.tolist(), self.requests[waiting].tolist(),
            self.requests[started & ~left & ~ran].tolist(), float(self._worst_gaps_s[iteration]),
        )  # fmt: skip

    def prefill_cells(self, first: int, stop: int, requests: np.ndarray | None = None) -> Cells:
        """The prefill chunks of iterations first..stop-1, of `requests` only unless None."""
        return self._cells_of_chunks(first, stop, False, requests)

    def decode_cells(self, first: int, stop: int, requests: np.ndarray | None = None) -> Cells:
        """The decoded tokens of iterations first..stop-1, a cell each, in no order."""
        runs = self.trace.runs
        begin, end = np.searchsorted(self._steps, (first, stop))
        lower = np.maximum(runs["first_step"], begin)
        lengths = np.minimum(runs["first_step"] + runs["num_tokens"], end) - lower
        kept = lengths > 0
        if requests is not None:
            kept &= np.isin(runs["request"], requests)
        lower, lengths = lower[kept], lengths[kept]
        # counts 0, 1, 2, ... anew in each stretch
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        single = self._cells_of_chunks(first, stop, True, requests)
        return Cells(
            np.concatenate((np.repeat(runs["request"][kept], lengths), single.request)),
            np.concatenate((self._steps[np.repeat(lower, lengths) + within], single.iteration)),
            np.ones(len(within) + len(single.request), "i8"),
        )

    def _cells_of_chunks(self, first: int, stop: int, decode: bool, requests) -> Cells:
        chunks, chosen = self.trace.chunks, self._chunks_of(first, stop)
        kept = self._is_decode[chosen] == decode
        if requests is not None:
            kept &= np.isin(chunks["request"][chosen], requests)
        chosen = chosen[kept]
        return Cells(*(chunks[name][chosen] for name in ("request", "iteration", "num_tokens")))

    def _chunks_of(self, first: int, stop: int) -> np.ndarray:
        """Rows of `chunks` in iterations first..stop-1; the table is in order of time."""
        return np.arange(*np.searchsorted(self.trace.chunks["iteration"], (first, stop)))

    def _rows_of(self, requests: np.ndarray) -> np.ndarray:
        """Rows of the `requests` table by index."""
        return np.searchsorted(self.requests, requests)

    def _which_chunks_decode(self) -> np.ndarray:
        """Whether a chunk is one generated token that yields the next: a decode, (num_chunks,)."""
        chunks = self.trace.chunks
        prompts = self.trace.requests["num_prompt_tokens"][self._rows_of(chunks["request"])]
        alone = (chunks["num_tokens"] == 1) & (chunks["samples"] == 1)
        return alone & (chunks["context"] >= prompts)

    def _spans(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last iteration of each request, (num_requests,).

        One that has not run yet begins after the record, one that is not done ends with it.
        """
        trace, runs = self.trace, self.trace.runs
        first = np.full(trace.num_requests, self.num_iterations)
        last = np.full(trace.num_requests, -1)
        rows = self._rows_of(trace.chunks["request"])
        np.minimum.at(first, rows, trace.chunks["iteration"])
        np.maximum.at(last, rows, trace.chunks["iteration"])
        run_ends = self._steps[runs["first_step"] + runs["num_tokens"] - 1]
        np.maximum.at(last, self._rows_of(runs["request"]), run_ends)
        last[np.isnan(trace.requests["finished_s"])] = self.num_iterations - 1
        return first, last

    def _longest_gaps_so_far(self) -> np.ndarray:
        """The longest gap between tokens that has ended by each iteration, (num_iterations,)."""
        worst = np.full(self.num_iterations, -np.inf)
        step_ends_s, runs = self.end_s[self._steps], self.trace.runs
        first, stop = runs["first_step"], runs["first_step"] + runs["num_tokens"]
        # gap k lies before step k: a run of steps a..b holds the gaps a+1..b
        joins = np.bincount(first + 1, minlength=len(self._steps) + 2)
        leaves = np.bincount(stop, minlength=len(self._steps) + 2)
        in_both = np.cumsum(joins - leaves)[: len(self._steps)] > 0
        worst[self._steps] = np.where(in_both, np.diff(step_ends_s, prepend=np.nan), -np.inf)
        begun, gaps_s = self._gaps_between_pieces()
        np.maximum.at(worst, begun, gaps_s)
        worst = np.maximum.accumulate(worst)
        return np.where(np.isneginf(worst), np.nan, worst)

    def _gaps_between_pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """Gaps between pieces of a request, runs or single tokens: (iteration they end, s)."""
        runs, chunks = self.trace.runs, self.trace.chunks
        sampled = chunks["samples"] == 1
        single = chunks["iteration"][sampled]
        owner = np.concatenate((chunks["request"][sampled], runs["request"]))
        begun = np.concatenate((single, self._steps[runs["first_step"]]))
        last = self._steps[runs["first_step"] + runs["num_tokens"] - 1]
        done = np.concatenate((single, last))
        order = np.lexsort((begun, owner))
        owner, begun, done = owner[order], begun[order], done[order]
        same = owner[1:] == owner[:-1]
        return begun[1:][same], (self.end_s[begun[1:]] - self.end_s[done[:-1]])[same]
