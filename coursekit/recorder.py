"""Writing the record while an engine runs: rows appended one by one, or many at once.

Columns are typed arrays, so a row costs a few appends and a million rows a few megabytes.
What the rows mean is said in `trace`; this module collects them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import nan

import numpy as np

from coursekit.batch import Batch
from coursekit.request import Request
from coursekit.schedulers.base import Scheduler
from coursekit.trace import CHUNKS, ITERATIONS, REQUESTS, RUNS, Table, Trace


class Recorder:
    """Collects iterations, chunks and requests of one run; `trace` makes a `Trace` of them.

    Iterations in which only decoding goes on differ in their ends and KV blocks alone, so the
    other columns hold such a stretch as one row, and `_repeats` says of how many iterations.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self.num_iterations = 0
        self._ends_s, self._blocks_used = array("d"), array("i")
        self._repeats = array("i")
        self._repeated = {
            name: array(_CODE[dtype])
            for name, dtype in ITERATIONS.items()
            if name not in ("end_s", "num_blocks_used")
        }
        self._chunks = {name: array(_CODE[dtype]) for name, dtype in CHUNKS.items()}
        self._requests = {
            name: [] if dtype == "O" else array(_CODE[dtype]) for name, dtype in REQUESTS.items()
        }
        # bound once: these are called for every iteration
        columns = [self._ends_s, self._blocks_used, self._repeats, *self._repeated.values()]
        self._append = tuple(column.append for column in columns)
        self._append_chunk = tuple(column.append for column in self._chunks.values())
        self._append_request = tuple(column.append for column in self._requests.values())

    def record(self, batch: Batch, start_s: float, end_s: float) -> None:
        """Write down a batch that has run, before the scheduler's `update`."""
        num_prefill, num_decode = 0, batch.num_decodes
        for request, num_tokens, context in batch.chunks:
            known = request.num_prompt_tokens + request.num_output_tokens
            samples = context + num_tokens == known
            if num_tokens == 1 and request.num_output_tokens and samples:
                num_decode += 1
            else:
                num_prefill += num_tokens
            if samples and not request.num_output_tokens:
                request.first_token_s = end_s
            iteration, of, tokens, before, new = self._append_chunk
            iteration(self.num_iterations)
            of(request.index)
            tokens(num_tokens)
            before(context)
            new(samples)
        for request in batch.admitted:
            if request.first_scheduled_s != request.first_scheduled_s:  # nan: not yet
                request.first_scheduled_s = start_s
        self._write_iteration(batch, start_s, end_s, num_prefill, num_decode)

    def _write_iteration(self, batch, start_s, end_s, num_prefill, num_decode) -> None:
        scheduler = self.scheduler
        kv = scheduler.kv
        (end, blocks, repeats, start, prefill, decode, running, waiting, preempted, step) = (
            self._append
        )
        end(end_s)
        blocks(kv.num_blocks - kv.num_free)
        repeats(1)
        start(start_s)
        prefill(num_prefill)
        decode(num_decode)
        running(len(scheduler.running))
        waiting(len(scheduler.waiting))
        preempted(len(batch.preempted))
        step(batch.num_decodes > 0)
        self.num_iterations += 1

    def record_more(self, ends_s: Sequence[float], num_blocks_used: Sequence[int]) -> None:
        """Write down iterations like the one before, of the same requests, right after it.

        ends_s, num_blocks_used: (num_iterations,), lists or arrays.
        """
        self._ends_s.extend(ends_s)
        self._blocks_used.extend(num_blocks_used)
        self._repeats[-1] += len(ends_s)
        self.num_iterations += len(ends_s)

    def _iterations(self) -> Table:
        repeats = np.array(self._repeats)
        table = dict.fromkeys(ITERATIONS)
        table["end_s"] = np.array(self._ends_s)
        table["num_blocks_used"] = np.array(self._blocks_used)
        for name, column in self._repeated.items():
            table[name] = np.repeat(np.array(column), repeats)
        firsts = np.cumsum(repeats, dtype="i8") - repeats  # of each stretch
        begun = table["start_s"][firsts]
        table["start_s"][1:] = table["end_s"][:-1]  # the others start as one ends
        table["start_s"][firsts] = begun
        return table

    def finished(self, request: Request, now_s: float) -> None:
        """Write down what became of a request (`now_s` nan: it has been given up)."""
        for append, value in zip(self._append_request, _row(request, now_s)):
            append(value)

    @property
    def num_prefill_tokens(self) -> int:
        """Prefill tokens of the last iteration."""
        return self._repeated["num_prefill_tokens"][-1]

    def trace(self, label: str, info: dict) -> Trace:
        """The record so far. Requests still in the scheduler are unfinished in it."""
        group = self.scheduler.group
        unfinished = [*self.scheduler.running, *self.scheduler.waiting]
        staying = [request for request in unfinished if request.entry_clock >= 0]
        stays = [(r.index, r.entry_clock, group.clock - r.entry_clock) for r in staying]
        runs = dict(zip(RUNS, group.runs))
        rows = [_row(r, nan, group.num_steps_of(r)) for r in unfinished]
        return Trace(
            label=label,
            iterations=self._iterations(),
            requests=_in_order(_as_table(self._requests, REQUESTS, rows)),
            chunks=_as_table(self._chunks, CHUNKS),
            runs=_as_table(runs, RUNS, [stay for stay in stays if stay[2]]),
            info=info,
        )


_CODE = {"f8": "d", "i8": "q", "i4": "i"}


def _row(request: Request, finished_s: float, num_more_tokens: int = 0) -> tuple:
    """A request's row of REQUESTS; num_more_tokens: not on its own books yet."""
    return (
        request.index, request.arrival_s, request.num_prompt_tokens,
        request.num_output_tokens + num_more_tokens, request.priority, request.priority_class,
        request.first_scheduled_s, request.first_token_s, finished_s,
        request.num_preemptions, request.num_cached_tokens,
    )  # fmt: skip


def _as_table(columns: dict, dtypes: dict[str, str], more: Sequence[tuple] = ()) -> Table:
    """Columns, and some rows more, as numpy arrays."""
    table = {name: np.array(columns[name], dtype) for name, dtype in dtypes.items()}
    if more:
        for (name, column), values in zip(table.items(), zip(*more, strict=True), strict=True):
            table[name] = np.concatenate((column, np.array(values, column.dtype)))
    return table


def _in_order(requests: Table) -> Table:
    """The table sorted by the requests' index."""
    order = np.argsort(requests["request"])
    return {name: column[order] for name, column in requests.items()}
