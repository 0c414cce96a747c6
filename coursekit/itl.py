"""Inter-token latencies of a whole record, without writing down a single token.

All members of the decode group wait the same time for their next token, so a gap between two
decode steps counts once per request that was in both. A million requests have hundreds of
millions of gaps and only a few million different ones.
"""

from __future__ import annotations

import numpy as np

from coursekit.trace import Trace


def itls(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Every gap between consecutive tokens of one request: (values_s, weights).

    A value counts `weight` times. A gap spans whatever lay between the two tokens, also a
    preemption. Values are in no order; weights are >= 1.
    """
    inside_s, members = _gaps_between_steps(trace)
    counted = members > 0
    between_s, _ = _gaps_between_pieces(trace)
    values = np.concatenate((inside_s[counted], between_s))
    return values, np.concatenate((members[counted], np.ones(len(between_s), members.dtype)))


def worst_itls_s(trace: Trace) -> np.ndarray:
    """Each request's longest gap, (num_requests,); nan for one with fewer than two tokens."""
    worst = np.full(trace.num_requests, -np.inf)
    row_of = _row_of(trace)
    gaps_s, _ = _gaps_between_steps(trace)
    runs = trace.runs
    many = runs["num_tokens"] > 1
    if many.any():
        first, count = runs["first_step"][many], runs["num_tokens"][many]
        # gap k lies before step k: a run of steps a..b holds the gaps a+1..b
        bounds = np.column_stack((first + 1, first + count)).ravel()
        longest = np.maximum.reduceat(np.append(gaps_s, -np.inf), bounds)[::2]
        np.maximum.at(worst, row_of[runs["request"][many]], longest)
    between_s, owners = _gaps_between_pieces(trace)
    np.maximum.at(worst, row_of[owners], between_s)
    worst[np.isneginf(worst)] = np.nan
    return worst


def _gaps_between_steps(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """For each decode step, the seconds since the one before, and how many requests had a
    token in both, each (num_decode_steps,). The first step's gap is 0 for nobody."""
    ends_s = trace.step_ends_s()
    first, count = trace.runs["first_step"], trace.runs["num_tokens"]
    change = np.bincount(first + 1, minlength=len(ends_s) + 2)
    change -= np.bincount(first + count, minlength=len(ends_s) + 2)
    return np.diff(ends_s, prepend=ends_s[:1]), np.cumsum(change)[: len(ends_s)]


def _gaps_between_pieces(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Gaps from the end of one piece of a request to the start of its next: (seconds, request).

    A piece is a run, or a token that came at the end of a chunk.
    """
    ends_s, runs, chunks = trace.step_ends_s(), trace.runs, trace.chunks
    sampled = chunks["samples"] == 1
    at_s = trace.iterations["end_s"][chunks["iteration"][sampled]]
    owner = np.concatenate((chunks["request"][sampled], runs["request"]))
    starts_s = np.concatenate((at_s, ends_s[runs["first_step"]]))
    last = runs["first_step"] + runs["num_tokens"] - 1
    stops_s = np.concatenate((at_s, ends_s[last]))
    order = np.lexsort((starts_s, owner))
    owner, starts_s, stops_s = owner[order], starts_s[order], stops_s[order]
    same = owner[1:] == owner[:-1]
    return (starts_s[1:] - stops_s[:-1])[same], owner[1:][same]


def _row_of(trace: Trace) -> np.ndarray:
    """Row in `requests` by a request's index."""
    index = trace.requests["request"]
    rows = np.zeros(int(index.max()) + 1 if len(index) else 0, "i8")
    rows[index] = np.arange(len(index))
    return rows
