"""When each request's tokens came, in pieces: a piece is one row of a trace, however long.

A piece is a stretch of decode steps (`runs`), or one token at the end of a chunk. A million
requests have hundreds of millions of tokens and a few million pieces.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coursekit.trace import Trace


class Pieces(NamedTuple):
    """Tokens of all requests, in order of request and time; columns (num_pieces,).

    row: of the request, in `requests`; first, last: iterations at whose end the first and the
    last token came; num_tokens: in the piece; before: tokens that the request had had before;
    step: decode step of the first token, -1 for a token of a chunk; chunk: row of `chunks`, -1
    for a run.
    """

    row: np.ndarray
    first: np.ndarray
    last: np.ndarray
    num_tokens: np.ndarray
    before: np.ndarray
    step: np.ndarray
    chunk: np.ndarray

    @property
    def continues(self) -> np.ndarray:
        """Whether a piece follows one of the same request, for all but the first."""
        return self.row[1:] == self.row[:-1]


def token_pieces(trace: Trace) -> Pieces:
    """The pieces of every request in `trace`."""
    steps = np.flatnonzero(trace.iterations["is_decode_step"] == 1)
    runs, sampled = trace.runs, np.flatnonzero(trace.chunks["samples"] == 1)
    at = trace.chunks["iteration"][sampled].astype("i8")
    step, many = runs["first_step"], runs["num_tokens"]
    none = np.full(len(step), -1)
    row = rows_of(trace, np.concatenate((trace.chunks["request"][sampled], runs["request"])))
    first = np.concatenate((at, steps[step]))
    last = np.concatenate((at, steps[step + many - 1]))
    num_tokens = np.concatenate((np.ones(len(at), "i8"), many))
    order = np.lexsort((first, row))
    row, num_tokens = row[order], num_tokens[order]
    so_far = np.cumsum(num_tokens) - num_tokens  # of all requests; from the first of its own on
    begins = np.searchsorted(row, row, "left")
    return Pieces(
        row, first[order], last[order], num_tokens, so_far - so_far[begins],
        np.concatenate((np.full(len(at), -1), step))[order],
        np.concatenate((sampled, none))[order],
    )  # fmt: skip


def rows_of(trace: Trace, requests: np.ndarray) -> np.ndarray:
    """Rows of the `requests` table by index."""
    return np.searchsorted(trace.requests["request"], requests)


def is_decode(trace: Trace, pieces: Pieces) -> np.ndarray:
    """Which rows of `chunks` are decodes: one token, not the first, that yields the next."""
    found = np.zeros(len(trace.chunks["request"]), bool)
    later = pieces.chunk[(pieces.chunk >= 0) & (pieces.before > 0)]
    found[later] = trace.chunks["num_tokens"][later] == 1
    return found
