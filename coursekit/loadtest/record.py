"""A load test as a `Trace`: the client's view in the tables that every engine leaves.

The client sees no iterations. A row of `iterations` is a moment at which tokens reached it;
its start is the moment before, or, if nothing was in flight then, the next sending. A token is
a row of `chunks` that samples; the first of a request stands for its whole prompt, computed by
then. Several tokens in one event came at one moment, so the gaps between them are 0. What only
the server knows (KV blocks, preemptions, first scheduling) is 0 or nan.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coursekit.loadtest.outcome import NOT_SENT, Outcome
from coursekit.trace import CHUNKS, ITERATIONS, REQUESTS, RUNS, Table, Trace, empty_table
from coursekit.workload import Workload

HOW_TO_READ = (
    "a client's view: a row of iterations is a moment at which tokens reached it, not an "
    "iteration of the server; arrival_s is the real sending; KV blocks and preemptions are "
    "not seen (0), nor is scheduling (nan)"
)


def make_trace(
    outcomes: Sequence[Outcome], workload: Workload, label: str, info: dict | None = None
) -> Trace:
    """The record of what was sent, whatever became of it.

    outcomes: of the requests of `workload`, in the order of their index. Those that were not
    sent have no row, as in any record. A failed one has the tokens that came, and never finished.
    """
    sent = [outcome for outcome in outcomes if outcome.kind != NOT_SENT]
    requests = _requests(sent, workload)
    moments_s, chunks = _chunks(sent)
    iterations = _iterations(moments_s, chunks, sent)
    about = {"iterations": HOW_TO_READ, **(info or {})}
    return Trace(label, iterations, requests, chunks, empty_table(RUNS, 0), about)


def only(trace: Trace, kept: np.ndarray) -> Trace:
    """The record of some of the requests. kept: bool, (num_requests,).

    `iterations` stays whole, so its counts are of all requests.
    """
    requests = {name: column[kept] for name, column in trace.requests.items()}
    tables = []
    for table in (trace.chunks, trace.runs):
        mine = np.isin(table["request"], requests["request"])
        tables.append({name: column[mine] for name, column in table.items()})
    return Trace(trace.label, trace.iterations, requests, *tables, trace.info)


def _requests(sent: list[Outcome], workload: Workload) -> Table:
    table = empty_table(REQUESTS, len(sent))
    index = np.array([outcome.index for outcome in sent], "i8")
    table["request"][:] = index
    table["arrival_s"][:] = [outcome.sent_s for outcome in sent]
    table["num_prompt_tokens"][:] = workload.num_prompt_tokens[index]
    table["num_output_tokens"][:] = [outcome.num_output_tokens for outcome in sent]
    table["priority"][:] = workload.priority[index]
    table["priority_class"][:] = workload.priority_class[index]
    table["first_scheduled_s"][:] = np.nan
    table["first_token_s"][:] = [o.moments_s[0] if o.moments_s else np.nan for o in sent]
    table["finished_s"][:] = [o.moments_s[-1] if o.is_finished else np.nan for o in sent]
    return table


def _chunks(sent: list[Outcome]) -> tuple[np.ndarray, Table]:
    """The moments, seconds in order, (num_moments,), and a row for each token."""
    totals = np.array([outcome.num_output_tokens for outcome in sent], "i8")
    counts = np.array([count for o in sent for count in o.num_tokens], "i8")
    times_s = np.repeat([time_s for o in sent for time_s in o.moments_s], counts)
    prompts = np.repeat([outcome.num_prompt_tokens for outcome in sent], totals)
    number = np.arange(totals.sum()) - np.repeat(np.cumsum(totals) - totals, totals)  # from 0
    moments_s, iteration = np.unique(times_s, return_inverse=True)
    order = np.argsort(iteration, kind="stable")
    columns = {
        "iteration": iteration,
        "request": np.repeat([outcome.index for outcome in sent], totals),
        "num_tokens": np.where(number == 0, prompts, 1),
        "context": np.where(number == 0, 0, prompts + number - 1),
        "samples": np.ones(len(number)),
    }
    return moments_s, {name: columns[name][order].astype(dtype) for name, dtype in CHUNKS.items()}


def _iterations(moments_s: np.ndarray, chunks: Table, sent: list[Outcome]) -> Table:
    table, num_moments = empty_table(ITERATIONS, len(moments_s)), len(moments_s)
    is_prompt = chunks["context"] == 0
    prompts, others = chunks["iteration"][is_prompt], chunks["iteration"][~is_prompt]
    prompt_tokens = chunks["num_tokens"][is_prompt]
    sent_s = np.sort([outcome.sent_s for outcome in sent])
    first_s = np.sort([outcome.moments_s[0] for outcome in sent if outcome.moments_s])
    ended_s = np.sort([outcome.ended_s for outcome in sent])
    decoded_s = np.sort([outcome.ended_s for outcome in sent if outcome.moments_s])
    num_in_flight = _up_to(sent_s, moments_s) - _before(ended_s, moments_s)
    num_running = _up_to(first_s, moments_s) - _before(decoded_s, moments_s)
    table["end_s"][:] = moments_s
    table["start_s"][:] = _starts_s(moments_s, sent_s, ended_s)
    table["num_prefill_tokens"][:] = np.bincount(prompts, prompt_tokens, num_moments)
    table["num_decode_tokens"][:] = np.bincount(others, minlength=num_moments)
    table["num_running"][:] = num_running
    table["num_waiting"][:] = num_in_flight - num_running
    return table


def _starts_s(moments_s: np.ndarray, sent_s: np.ndarray, ended_s: np.ndarray) -> np.ndarray:
    """The moment before each, or the next sending if nothing was in flight at it."""
    if not len(moments_s):
        return moments_s
    before_s = np.concatenate(([-np.inf], moments_s[:-1]))
    idle = _up_to(sent_s, before_s) == _up_to(ended_s, before_s)
    next_sent_s = np.append(sent_s, np.inf)[_up_to(sent_s, before_s)]
    return np.where(idle, np.minimum(next_sent_s, moments_s), before_s)


def _up_to(sorted_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """How many are at or before each of `times_s`."""
    return np.searchsorted(sorted_s, times_s, "right")


def _before(sorted_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    return np.searchsorted(sorted_s, times_s, "left")
