"""What chunk sizes by priority class do, and what shares with ageing do instead, simulated.

The course module gives the high class small chunks, for low latency. A chunk size is what *others*
wait for: small chunks make their own prompt late. Three policies serve the same mixed workload, and
tables say which class got what; a fourth thing to see is that nobody waits longer than the
bound that `PriorityAwareChunking` states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from coursekit.cost.base import CostModel
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.metrics import weighted_percentiles
from coursekit.schedulers.priority_aware import CHUNK_SIZES, SHARES, PriorityAwareChunking
from coursekit.trace import Trace
from coursekit.workload import Workload, lognormal, poisson

if TYPE_CHECKING:
    import pandas as pd

CLASSES = tuple(CHUNK_SIZES)
ONE_SIZE, EQUAL = dict.fromkeys(CLASSES, 512), dict.fromkeys(CLASSES, 1)
AGEING_ITERATIONS = 64
# name -> chunk sizes and shares; what differs from the first is the one thing that is tried
POLICIES = {
    "one size": (ONE_SIZE, EQUAL),
    "module's sizes": (CHUNK_SIZES, EQUAL),
    "shares with ageing": (ONE_SIZE, SHARES),
}
TOKEN_BUDGET, MAX_NUM_SEQS = 512, 256


@dataclass(frozen=True, slots=True)
class PriorityRun:
    """A workload of classes served by one policy.

    waits, bounds: iterations from arrival to first token, both ends counted, and the most that
    the policy's docstring allows, each (num_requests,).
    """

    name: str
    trace: Trace
    waits: np.ndarray
    bounds: np.ndarray


class ClassRow(NamedTuple):
    """One class under one policy, seconds; TTFT over its `n` requests, ITL over its tokens.

    beside_*: durations of iterations whose prompt tokens were all of this class, counted once
    for each decode in them: what the class's chunks cost those that decode.
    """

    policy: str
    priority_class: str
    n: int
    ttft_p50_s: float
    ttft_p99_s: float
    num_itls: int
    itl_p50_s: float
    itl_p99_s: float
    num_beside: int
    beside_p50_s: float
    beside_p99_s: float


def mixed_workload(rate: float = 5.0, n: int = 900, seed: int = 0) -> Workload:
    """Poisson arrivals of `rate` a second; each class a third, drawn, of the same lengths."""
    classes = np.random.default_rng(seed).choice(CLASSES, n)
    return Workload(
        poisson(rate, n, seed=seed + 1), lognormal(n, 1500, 3000, 64, 6000, seed=seed + 2),
        lognormal(n, 100, 200, 10, 300, seed=seed + 3), priority_class=list(classes),
    )  # fmt: skip


def compare_policies(
    workload: Workload, cost: CostModel, token_budget: int = TOKEN_BUDGET
) -> list[PriorityRun]:
    """Serve `workload` by each of POLICIES.

    Raises ValueError if anybody was preempted, or places ran out: then the bound on waits does
    not hold, and a comparison of classes would compare who found a place.
    """
    runs = []
    for name, (sizes, shares) in POLICIES.items():
        policy = PriorityAwareChunking(
            token_budget, MAX_NUM_SEQS, priority_chunk_sizes=sizes, shares=shares,
            ageing_iterations=AGEING_ITERATIONS,
        )  # fmt: skip
        trace = Engine(policy, SimulatedExecutor(cost)).run(workload.source())
        runs.append(PriorityRun(name, trace, *waits_and_bounds(trace)))
    return runs


def waits_and_bounds(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Each request's wait for its first token, in iterations, and the most it may be.

    trace: of a `PriorityAwareChunking`, all requests served. The bound is the docstring's: the
    chunks, at the least that the heaviest request gets, of the request itself and of all that
    may outweigh it. Raises ValueError where it does not hold: places or KV blocks ran out.
    """
    settings, iterations, requests = trace.info["scheduler"], trace.iterations, trace.requests
    _check(settings, iterations, requests)
    sizes, shares = settings["priority_chunk_sizes"], settings["shares"]
    first = np.searchsorted(iterations["start_s"], requests["arrival_s"])  # that it could be in
    last = np.searchsorted(iterations["end_s"], requests["first_token_s"])
    left = settings["token_budget"] - int(iterations["num_decode_tokens"].max())
    classes = requests["priority_class"]
    least = np.array([min(sizes[each], max(1, left // len(sizes))) for each in classes])
    num_chunks = -(-requests["num_prompt_tokens"] // least)
    head_start = max(shares.values()) - np.array([shares[each] for each in classes])
    until = first + head_start * settings["ageing_iterations"]
    bounds = [
        num_chunks[(first <= until[k]) & (last >= first[k])].sum() for k in range(len(first))
    ]
    return last - first + 1, np.array(bounds)


def class_rows(runs: list[PriorityRun]) -> list[ClassRow]:
    """One row for each policy and class."""
    return [_class_row(run, name) for run in runs for name in CLASSES]


def class_table(runs: list[PriorityRun]) -> pd.DataFrame:
    """`class_rows` as a DataFrame, by policy and class."""
    import pandas as pd

    return pd.DataFrame(class_rows(runs)).set_index(["policy", "priority_class"])


def findings(runs: list[PriorityRun]) -> str:
    """What the runs show, in a paragraph; every number and every verdict is from the data."""
    rows = {(row.policy, row.priority_class): row for row in class_rows(runs)}
    one, sized, shared = (rows[name, "high"] for name in POLICIES)
    low, low_shared = rows["one size", "low"], rows["shares with ageing", "low"]
    parts = [
        f"With chunks of {CHUNK_SIZES['high']} tokens in place of {ONE_SIZE['high']} the high "
        f"class's own TTFT {_ttft_change(one, sized)} ({one.n} requests), and an iteration that "
        f"carries its prompts alone {_change(one.beside_p50_s, sized.beside_p50_s)} at the median "
        f"({sized.num_beside} decodes waited for one)."
    ]
    if sized.ttft_p50_s > one.ttft_p50_s and sized.beside_p50_s < one.beside_p50_s:
        parts.append("A small chunk serves whoever decodes, not its own request.")
    parts.append(
        "With shares of the budget and ageing in place of sizes, the high class's TTFT "
        f"{_ttft_change(one, shared)}, and that of the low class {_ttft_change(low, low_shared)}."
    )
    return " ".join([*parts, _starvation(runs[-1])])


def _starvation(run: PriorityRun) -> str:
    is_low = run.trace.requests["priority_class"] == "low"
    waits, bounds = run.waits[is_low], run.bounds[is_low]
    broken = int((waits > bounds).sum())
    verdict = f"{broken} requests break their bound" if broken else (
        f"none waits more than {(waits / bounds).max():.0%} of its bound"
    )  # fmt: skip
    return (
        f"The low class's longest wait for a first token is {waits.max()} iterations; of its "
        f"{len(waits)} requests {verdict}."
    )


def _ttft_change(before: ClassRow, after: ClassRow) -> str:
    return (
        f"{_change(before.ttft_p50_s, after.ttft_p50_s)} at the median and "
        f"{_change(before.ttft_p99_s, after.ttft_p99_s)} at P99"
    )


def _change(before: float, after: float) -> str:
    change = after / before - 1
    if abs(change) < 0.005:
        return "stays the same"
    return f"{'grows' if change > 0 else 'falls'} by {abs(change):.0%}"


def _class_row(run: PriorityRun, name: str) -> ClassRow:
    trace = run.trace
    mine = trace.requests["priority_class"] == name
    ttft_s = (trace.requests["first_token_s"] - trace.requests["arrival_s"])[mine]
    gaps_s, weights = _itls_of(trace, trace.requests["request"][mine])
    beside_s, decodes = _beside(trace, trace.requests["request"][mine])
    quantiles = (50, 99)
    return ClassRow(
        run.name, name, int(mine.sum()), *map(float, np.percentile(ttft_s, quantiles)),
        int(weights.sum()), *map(float, weighted_percentiles(gaps_s, weights, quantiles)),
        int(decodes.sum()), *map(float, weighted_percentiles(beside_s, decodes, quantiles)),
    )  # fmt: skip


def _itls_of(trace: Trace, requests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    gaps = [np.diff(trace.token_times_s(int(request))) for request in requests]
    values = np.concatenate(gaps)
    return values, np.ones(len(values), "i8")


def _beside(trace: Trace, requests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Durations of iterations with prompt tokens of `requests` alone, and the decodes in each."""
    chunks, iterations = trace.chunks, trace.iterations
    length = dict(zip(trace.requests["request"], trace.requests["num_prompt_tokens"]))
    lengths = np.array([length[request] for request in chunks["request"]])
    is_prompt = chunks["context"] < lengths
    is_mine = np.isin(chunks["request"], requests)
    mine, theirs = (chunks["iteration"][is_prompt & which] for which in (is_mine, ~is_mine))
    rows = np.setdiff1d(mine, theirs)
    seconds, decodes = iterations["end_s"] - iterations["start_s"], iterations["num_decode_tokens"]
    rows = rows[decodes[rows] > 0]
    return seconds[rows], decodes[rows]


def _check(settings: dict, iterations, requests) -> None:
    if "shares" not in settings:
        raise ValueError(
            f"the bound is PriorityAwareChunking's, the record is of {settings['name']}: run that"
        )
    if np.isnan(requests["first_token_s"]).any():
        raise ValueError(
            f"{int(np.isnan(requests['first_token_s']).sum())} requests have no first token yet; "
            "let the run end"
        )
    most = int(iterations["num_running"].max())
    if most >= settings["max_num_seqs"] or iterations["num_preempted"].any():
        raise ValueError(
            f"the bound needs places and KV blocks for all, {most} of max_num_seqs "
            f"{settings['max_num_seqs']} ran at once and {int(iterations['num_preempted'].sum())} "
            "were preempted; give it more"
        )
