"""An open source: requests arrive when the workload says, however far behind the engine is.

Users who wait for their answer before they ask again are `closed_loop.ClosedLoop`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, repeat
from typing import TYPE_CHECKING

from coursekit.request import Request

if TYPE_CHECKING:
    from coursekit.workload.workload import Workload

_BLOCK_ROWS = 4096  # converted at once: a numpy scalar at a time is slow, a million lists is big
_END = (None, math.inf)


class OpenSource:
    """Sends the requests of `workload` once, in order of arrival.

    next_arrival_s: when the next one arrives, seconds; `math.inf` when none is left.
    """

    def __init__(self, workload: Workload):
        self._rows = _rows(workload)
        self._row = next(self._rows, _END)
        self.next_arrival_s = self._row[1]

    def take(self, now_s: float) -> list[Request]:
        """The requests that have arrived by `now_s` (seconds) and were not taken yet, in order."""
        taken, rows, row = [], self._rows, self._row
        while row[1] <= now_s and row is not _END:
            taken.append(Request(*row))
            row = next(rows, _END)
        self._row, self.next_arrival_s = row, row[1]
        return taken

    def finished(self, request: Request, now_s: float) -> None:
        """Nothing: no one waits for an answer here."""


def _rows(workload: Workload) -> Iterator[tuple]:
    """The arguments of each `Request`, converted to Python values a block at a time."""
    starts = range(0, len(workload), _BLOCK_ROWS)
    return chain.from_iterable(_block(workload, start) for start in starts)


def _block(workload: Workload, start: int) -> Iterator[tuple]:
    rows = slice(start, min(start + _BLOCK_ROWS, len(workload)))
    token_ids = workload.prompt_token_ids
    return zip(
        range(rows.start, rows.stop),
        workload.arrival_s[rows].tolist(),
        workload.num_prompt_tokens[rows].tolist(),
        workload.num_output_tokens[rows].tolist(),
        workload.priority[rows].tolist(),
        workload.priority_class[rows].tolist(),
        repeat(None) if token_ids is None else token_ids[rows],
    )
