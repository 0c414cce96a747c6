"""The arithmetic of blocking time: running sums over iterations, so that no token is written out.

All members of a batch wait the same time, so what a request waited between two iterations is a
difference of two running sums; only its own prefill, after a preemption, is taken off one by one.
`blocking_time` says what the numbers mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coursekit.analyzers.token_pieces import Pieces, is_decode, rows_of, token_pieces
from coursekit.trace import Trace

MOST_CELLS = 4_000_000  # pairs of a request and a chunk that are held in memory at once


@dataclass(frozen=True, slots=True, eq=False)
class BlockingSums:
    """Seconds of each iteration, (num_iterations,), and who ran prefill in it.

    baseline_s: of its decodes alone; blocking_s: the rest of it; idle_s: between the end of the
    iteration before and its start. first, last: iterations of each request's first and last token,
    (num_requests,), both 0 without any. chunk_row, chunk_at, chunk_s: prefill chunks in order of
    time, (num_chunks,): the request's row, the iteration, and their share of its blocking_s, by
    tokens; chunk_alone: whether there is no other prefill in the iteration.
    """

    pieces: Pieces
    steps: np.ndarray  # iterations that are decode steps
    baseline_s: np.ndarray
    blocking_s: np.ndarray
    idle_s: np.ndarray
    first: np.ndarray
    last: np.ndarray
    chunk_row: np.ndarray
    chunk_at: np.ndarray
    chunk_s: np.ndarray
    chunk_alone: np.ndarray

    @classmethod
    def of(cls, trace: Trace, baseline_s: np.ndarray) -> BlockingSums:
        """From a record and what its iterations would have cost without prefill."""
        table, pieces, chunks = trace.iterations, token_pieces(trace), trace.chunks
        blocking_s = table["end_s"] - table["start_s"] - baseline_s
        idle_s = table["start_s"] - np.append(table["start_s"][0], table["end_s"][:-1])
        first, last = np.zeros((2, trace.num_requests), "i8")
        begins = pieces.before == 0
        first[pieces.row[begins]] = pieces.first[begins]
        last[pieces.row] = pieces.last  # in order of time: the last one stays
        prefill = ~is_decode(trace, pieces)
        at, num_tokens = chunks["iteration"][prefill].astype("i8"), chunks["num_tokens"][prefill]
        totals = table["num_prefill_tokens"][at]
        return cls(
            pieces, np.flatnonzero(table["is_decode_step"] == 1), baseline_s, blocking_s, idle_s,
            first, last, rows_of(trace, chunks["request"][prefill]), at,
            blocking_s[at] * (num_tokens / totals), num_tokens == totals,
        )  # fmt: skip

    # --- By request, (num_requests,) ---

    def num_tokens(self) -> np.ndarray:
        """Tokens that each request has got."""
        return _sum_at(self.pieces.row, self.pieces.num_tokens, len(self.first)).astype("i8")

    def blocked(self) -> np.ndarray:
        """Blocking by others, from a request's first token to its last."""
        rows = np.arange(len(self.first))
        own_s = self._own(rows, self.first, self.last)
        return _others(_between(self.blocking_s, self.first, self.last), own_s)

    def waiting(self) -> np.ndarray:
        """What no prefill of others explains: idle, standing beside decodes, recomputing."""
        rows, values = np.arange(len(self.first)), self.baseline_s + self.idle_s
        own_s = self._own(rows, self.first, self.last)
        return _between(values, self.first, self.last) - self.in_decodes(self.baseline_s) + own_s

    def in_decodes(self, values: np.ndarray) -> np.ndarray:
        """Sum of an iteration's `values` over the iterations in which a request decodes."""
        pieces, sums = self.pieces, np.append(0.0, np.cumsum(values[self.steps]))
        run = pieces.step >= 0
        first = pieces.step[run]
        in_runs = sums[first + pieces.num_tokens[run]] - sums[first]
        alone = self._single_decodes()
        row = np.concatenate((pieces.row[run], pieces.row[alone]))
        return _sum_at(
            row, np.concatenate((in_runs, values[pieces.first[alone]])), len(self.first)
        )

    def caused(self) -> np.ndarray:
        """What a request's prefill cost others."""
        others = self.num_waiting()[self.chunk_at] - self._recomputes()
        return _sum_at(self.chunk_row, self.chunk_s * others, len(self.first))

    def worst(self) -> np.ndarray:
        """Most blocking in one gap; nan for a request without one."""
        pieces, worst = self.pieces, np.full(len(self.first), -np.inf)
        many = pieces.num_tokens > 1
        if many.any():
            first, count = pieces.step[many], pieces.num_tokens[many]
            # gap k lies before step k: a run of steps a..b holds the gaps a+1..b
            bounds = np.column_stack((first + 1, first + count)).ravel()
            gaps_s = np.append(self._between_steps(), -np.inf)
            np.maximum.at(worst, pieces.row[many], np.maximum.reduceat(gaps_s, bounds)[::2])
        row, gaps_s = self._between_pieces()
        np.maximum.at(worst, row, gaps_s)
        return np.where(np.isneginf(worst), np.nan, worst)

    # --- By iteration, by gap, by pair ---

    def num_waiting(self) -> np.ndarray:
        """Requests between two of their tokens in each iteration, (num_iterations,)."""
        change = np.zeros(len(self.blocking_s) + 1, "i8")
        np.add.at(change, self.first + 1, 1)
        np.add.at(change, self.last + 1, -1)
        return np.cumsum(change)[:-1]

    def by_iteration(self) -> tuple[np.ndarray, np.ndarray]:
        """Requests blocked by others in each iteration, and their blocking together."""
        count, own = len(self.blocking_s), self._recomputes()
        waiting = self.num_waiting()
        own_s = _sum_at(self.chunk_at[own], self.chunk_s[own], count)
        only_own = np.bincount(self.chunk_at[own & self.chunk_alone], minlength=count)
        blocked = np.where(self.blocking_s > 0, waiting - only_own, 0)
        return blocked, _others(self.blocking_s * waiting, own_s)

    def gaps(self) -> tuple[np.ndarray, np.ndarray]:
        """Blocking in every gap between two tokens of a request: (seconds, how often)."""
        pieces = self.pieces
        run = pieces.step >= 0
        first, stop = pieces.step[run], pieces.step[run] + pieces.num_tokens[run]
        change = np.bincount(first + 1, minlength=len(self.steps) + 2)
        change -= np.bincount(stop, minlength=len(self.steps) + 2)
        members = np.cumsum(change)[: len(self.steps)]
        inside, (_, between_s) = members > 0, self._between_pieces()
        values = np.concatenate((self._between_steps()[inside], between_s))
        return values, np.concatenate((members[inside], np.ones(len(between_s), "i8")))

    def pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Blocked row, blocker row, and seconds > 0 of each pair, by blocked row."""
        costly = self.chunk_s > 0
        row, at, share_s = self.chunk_row[costly], self.chunk_at[costly], self.chunk_s[costly]
        begin, end = (np.searchsorted(at, until, "right") for until in (self.first, self.last))
        cells = np.cumsum(end - begin)
        parts = [(np.zeros(0, "i8"), np.zeros(0, "i8"), np.zeros(0))]
        start = done = 0
        while start < len(cells):
            stop = max(start + 1, int(np.searchsorted(cells, done + MOST_CELLS, "right")))
            blocked = np.arange(start, stop)
            parts.append(_pairs(blocked, begin[blocked], end[blocked], row, share_s, len(cells)))
            start, done = stop, cells[stop - 1]
        return tuple(np.concatenate(columns) for columns in zip(*parts))

    # --- What these are made of ---

    def _single_decodes(self) -> np.ndarray:
        """Pieces that are one decoded token outside the decode group."""
        prefill = self._key(self.chunk_row, self.chunk_at)
        single = (self.pieces.step < 0) & (self.pieces.before > 0)
        return single & ~np.isin(self._key(self.pieces.row, self.pieces.first), prefill)

    def _recomputes(self) -> np.ndarray:
        """Chunks of requests between two of their tokens: computed again, (num_chunks,)."""
        row = self.chunk_row
        return (self.first[row] < self.chunk_at) & (self.chunk_at <= self.last[row])

    def _key(self, row, at) -> np.ndarray:
        return row * len(self.blocking_s) + at

    def _own(self, row, after, until) -> np.ndarray:
        """Shares of requests' own chunks in iterations after+1..until."""
        own = self._recomputes()
        keys = self._key(self.chunk_row[own], self.chunk_at[own])
        order = np.argsort(keys, kind="stable")
        sums = np.append(0.0, np.cumsum(self.chunk_s[own][order]))
        begin, end = (
            sums[np.searchsorted(keys[order], self._key(row, at), "right")] for at in (after, until)
        )
        return end - begin

    def _between_steps(self) -> np.ndarray:
        """Blocking from each decode step's end to the next one's, (num_steps,); the first 0."""
        if not len(self.steps):
            return np.zeros(0)
        return _between(self.blocking_s, np.append(self.steps[0], self.steps[:-1]), self.steps)

    def _between_pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """The gaps from one piece of a request to its next: (row, blocking by others)."""
        pieces = self.pieces
        same = pieces.continues
        row, after, until = pieces.row[1:][same], pieces.last[:-1][same], pieces.first[1:][same]
        return row, _others(_between(self.blocking_s, after, until), self._own(row, after, until))


def _between(values: np.ndarray, after: np.ndarray, until: np.ndarray) -> np.ndarray:
    """Sums of an iteration's `values` over iterations after+1..until."""
    sums = np.cumsum(values)
    return sums[until] - sums[after]


def _others(all_s: np.ndarray, own_s: np.ndarray) -> np.ndarray:
    """What is left without one's own; rounding leaves nothing below 0."""
    return np.where(own_s > 0, np.maximum(all_s - own_s, 0.0), all_s)


def _sum_at(place: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(place, values, count)


def _pairs(blocked, begin, end, chunk_row, chunk_s, num_requests):
    """Pairs of some requests: each with the chunks begin..end-1, summed by blocker."""
    count = end - begin
    chunk = np.arange(count.sum()) + np.repeat(begin - (np.cumsum(count) - count), count)
    key = np.repeat(blocked, count) * num_requests + chunk_row[chunk]
    others = key // num_requests != key % num_requests
    key, where = np.unique(key[others], return_inverse=True)
    seconds = np.bincount(where, chunk_s[chunk[others]], len(key))
    return key // num_requests, key % num_requests, seconds
