"""Measured iterations out of a record, to fit a cost to a run or to ask a cost about one.

A record says what every iteration ran, whatever engine left it. What it does not say in so many
words is the context of the requests in the decode group: that follows from how many tokens each
of them had when its stay there began.
"""

from __future__ import annotations

import numpy as np

from coursekit.cost.calibrated import MeasuredIteration
from coursekit.trace import Trace


def measured_iterations(trace: Trace) -> list[MeasuredIteration]:
    """What each iteration of `trace` ran and took, in their order.

    A token that was generated before counts as a decode wherever the engine ran it; `chunks`
    are (request index, num_tokens, context) of all else. seconds: of the iteration itself,
    without the time between two of them.
    """
    num_decodes, contexts = _decodes(trace)
    seconds = trace.iterations["end_s"] - trace.iterations["start_s"]
    chunks = _prompt_chunks(trace)
    rows = zip(num_decodes.tolist(), contexts.tolist(), seconds.tolist(), strict=True)
    return [
        MeasuredIteration(decodes, context, chunks.get(index, ()), took)
        for index, (decodes, context, took) in enumerate(rows)
    ]


def _decodes(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Decodes of each iteration and the sum of their contexts, each (num_iterations,)."""
    chunks, length = trace.chunks, trace.num_iterations
    alone = _is_decode(trace)
    at, before = chunks["iteration"][alone], chunks["context"][alone].astype("i8")
    num_decodes = np.bincount(at, minlength=length)
    contexts = np.bincount(at, before, minlength=length).astype("i8")
    steps = np.flatnonzero(trace.iterations["is_decode_step"])
    first, count = trace.runs["first_step"], trace.runs["num_tokens"]
    held = _contexts_of_runs(trace)
    members = _sum_over_steps(len(steps), first, count, np.ones_like(first))
    # the k-th step of a run attends to held + k tokens, k being the step's number less `first`
    bases = _sum_over_steps(len(steps), first, count, held - first)
    num_decodes[steps] += members
    contexts[steps] += bases + members * np.arange(len(steps))
    return num_decodes, contexts


def _sum_over_steps(num_steps: int, first, count, values) -> np.ndarray:
    """For each decode step, the sum of `values` of the runs that it is part of, (num_steps,)."""
    change = np.zeros(num_steps + 1, "i8")
    np.add.at(change, first, values)
    np.add.at(change, first + count, -values)
    return np.cumsum(change)[:num_steps]


def _contexts_of_runs(trace: Trace) -> np.ndarray:
    """Tokens that each run's request had computed when the run began, (num_runs,).

    All known ones but the last: prompt and output so far, whatever was preempted meanwhile.
    """
    runs, chunks, requests = trace.runs, trace.chunks, trace.requests
    steps = np.flatnonzero(trace.iterations["is_decode_step"])
    sampled = chunks["samples"] == 1
    owner = np.concatenate((chunks["request"][sampled], runs["request"])).astype("i8")
    begins = np.concatenate((chunks["iteration"][sampled], steps[runs["first_step"]]))
    tokens = np.concatenate((np.ones(sampled.sum(), "i8"), runs["num_tokens"]))
    order = np.lexsort((begins, owner))
    so_far = np.cumsum(tokens[order]) - tokens[order]
    firsts = np.searchsorted(owner[order], owner[order])  # of each request's pieces
    outputs = np.empty_like(so_far)
    outputs[order] = so_far - so_far[firsts]
    prompts = _by_index(requests["request"], requests["num_prompt_tokens"])
    return prompts[runs["request"]] + outputs[sampled.sum() :] - 1


def _is_decode(trace: Trace) -> np.ndarray:
    """Which rows of `chunks` run one generated token, (num_chunks,) of bool."""
    chunks, requests = trace.chunks, trace.requests
    prompts = _by_index(requests["request"], requests["num_prompt_tokens"])
    return (chunks["num_tokens"] == 1) & (chunks["context"] >= prompts[chunks["request"]])


def _by_index(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A table to look `values` up in by request index."""
    table = np.zeros(int(index.max()) + 1 if len(index) else 0, values.dtype)
    table[index] = values
    return table


def _prompt_chunks(trace: Trace) -> dict[int, list[tuple[int, int, int]]]:
    """The chunks of each iteration that has any, decodes left out."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    kept = ~_is_decode(trace)
    names = ("iteration", "request", "num_tokens", "context")
    columns = (trace.chunks[name][kept].tolist() for name in names)
    for iteration, *chunk in zip(*columns, strict=True):
        found.setdefault(iteration, []).append(tuple(chunk))
    return found
