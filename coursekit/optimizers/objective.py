"""What a run must keep and what is to be made large: limits on percentiles, and objectives.

`metrics.Slo` judges one request, by its worst gap; `RunSlo` judges a run, by percentiles over all
its tokens and requests, as an SLO is written in a contract. Here both are read off a record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coursekit.cost.base import CostModel
from coursekit.cost.from_trace import measured_iterations
from coursekit.itl import itls
from coursekit.metrics import Slo, totals, weighted_percentiles
from coursekit.trace import Trace

# Objective -> the column of a row that is to be large.
OBJECTIVES = {
    "throughput": "tokens_per_s", "goodput": "goodput_per_s", "capacity": "capacity_per_s",
}  # fmt: skip
UNITS = {
    "throughput": "tokens per second", "goodput": "requests per second within the SLO",
    "capacity": "requests per second that keep the SLO",
}  # fmt: skip
BLOCKING = "max_blocking_time_s"


@dataclass(frozen=True, slots=True)
class RunSlo:
    """What a whole run must keep, in seconds; None: no limit.

    itl_s: of the ITL at `itl_percentile`, over tokens; ttft_s: of the TTFT at
    `ttft_percentile`, over requests; max_blocking_time_s: of every gap, less what its
    iteration's decodes alone would have taken. Percentiles may be 100: the worst.
    Raises ValueError for a limit that is not > 0, for a percentile outside 0..100, or without
    any limit.
    """

    itl_s: float | None = None
    ttft_s: float | None = None
    max_blocking_time_s: float | None = None
    itl_percentile: float = 99
    ttft_percentile: float = 99

    def __post_init__(self):
        if not self.limits:
            raise ValueError(
                "an SLO needs at least 1 limit of itl_s, ttft_s, max_blocking_time_s, got none: "
                "say RunSlo(itl_s=0.1), for an ITL P99 of at most 0.1 s"
            )
        for name in ("itl_s", "ttft_s", "max_blocking_time_s"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and > 0 s, got {value}: pass seconds")
        for name in ("itl_percentile", "ttft_percentile"):
            if not 0 < getattr(self, name) <= 100:
                raise ValueError(
                    f"{name} must be in (0, 100], got {getattr(self, name)}: 99 is usual"
                )

    @property
    def limits(self) -> dict[str, float]:
        """Column of a row -> its most seconds, of the limits that are set."""
        given = {
            f"itl_p{self.itl_percentile:g}_s": self.itl_s,
            f"ttft_p{self.ttft_percentile:g}_s": self.ttft_s,
            BLOCKING: self.max_blocking_time_s,
        }
        return {column: limit for column, limit in given.items() if limit is not None}

    def per_request(self) -> Slo | None:
        """The limits on ITL and TTFT laid on every single request; None without them."""
        if self.itl_s is None and self.ttft_s is None:
            return None
        return Slo(ttft_s=self.ttft_s, itl_s=self.itl_s)


class Limit(NamedTuple):
    """One limit and where a run stands: seconds. slack_s is negative if it is missed."""

    name: str
    value_s: float
    limit_s: float

    @property
    def slack_s(self) -> float:
        return self.limit_s - self.value_s

    @property
    def ratio(self) -> float:
        """value / limit: at most 1 where it is kept."""
        return self.value_s / self.limit_s


def limits_of(row, slo: RunSlo) -> list[Limit]:
    """Where a row (column -> value) stands against each limit of `slo`."""
    return [
        Limit(say_column(column), float(row[column]), limit)
        for column, limit in slo.limits.items()
    ]


def keeps(row, slo: RunSlo) -> bool:
    """Whether a row keeps all limits; one that is met exactly is kept, nan is not."""
    return all(limit.value_s <= limit.limit_s for limit in limits_of(row, slo))


def say_column(column: str) -> str:
    """A limit's name in the field's words: ITL P99 for itl_p99_s."""
    if column == BLOCKING:
        return "max blocking time"
    what, percentile, _ = column.split("_")
    return f"{what.upper()} {percentile.upper()}"


def row_of(
    trace: Trace, slo: RunSlo, cost: CostModel | None = None, goodput_slo: Slo | None = None
) -> dict[str, float]:
    """A run in one row: rates per second, percentiles in seconds, by column.

    Percentiles 50, 99 and those of `slo`; a request without a first token counts as infinitely
    late. max_blocking_time_s needs `cost`, goodput_per_s needs `goodput_slo`.
    """
    whole = totals(trace, goodput_slo)
    row = {name: whole[name] for name in ("tokens_per_s", "output_tokens_per_s")}
    if goodput_slo is not None:
        row["goodput_per_s"] = whole["goodput_per_s"]
    ttft_s = trace.requests["first_token_s"] - trace.requests["arrival_s"]
    ttft_s = np.where(np.isnan(ttft_s), np.inf, ttft_s)
    for percent in sorted({50, 99, slo.ttft_percentile}):
        row[f"ttft_p{percent:g}_s"] = _percentile(ttft_s, percent)
    percents = sorted({50, 99, slo.itl_percentile})
    for percent, value in zip(percents, weighted_percentiles(*itls(trace), percents), strict=True):
        # a run in which every request has one token has no gap, and so none that is too long
        row[f"itl_p{percent:g}_s"] = 0.0 if np.isnan(value) else float(value)
    if cost is not None:
        row[BLOCKING] = max_blocking_time_s(trace, cost)
    return row


def _percentile(values: np.ndarray, percent: float) -> float:
    """As numpy's default; where some are infinite, between which it can't go, the one above."""
    method = "linear" if np.isfinite(values).all() else "higher"
    return float(np.percentile(values, percent, method=method))


def max_blocking_time_s(trace: Trace, cost: CostModel) -> float:
    """The longest that prefill held up a token, seconds; 0 if it never did.

    Of each gap with a prompt's tokens in it: the gap less what `cost` says that the decodes of
    the iteration at its end alone would have taken.
    """
    before, after = _iterations_of_gaps(trace)
    prefilled = np.cumsum(trace.iterations["num_prefill_tokens"], dtype="i8")
    mixed = prefilled[after] > prefilled[before]
    before, after = before[mixed], after[mixed]
    if not len(after):
        return 0.0
    iterations, alone_s = measured_iterations(trace), np.zeros(trace.num_iterations)
    for index in np.unique(after).tolist():
        decodes = iterations[index]
        alone_s[index] = cost.iteration_s(decodes.num_decodes, decodes.decode_context, ())
    ends_s = trace.iterations["end_s"]
    return max(0.0, float((ends_s[after] - ends_s[before] - alone_s[after]).max()))


def _iterations_of_gaps(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """The iterations at whose ends each gap begins and ends, two columns.

    Gaps that all members of the decode group share are there once.
    """
    runs, chunks = trace.runs, trace.chunks
    steps = np.flatnonzero(trace.iterations["is_decode_step"] == 1)
    change = np.bincount(runs["first_step"] + 1, minlength=len(steps) + 2)
    change -= np.bincount(runs["first_step"] + runs["num_tokens"], minlength=len(steps) + 2)
    shared = np.flatnonzero(np.cumsum(change)[: len(steps)] > 0)  # steps with somebody of the last
    sampled = chunks["samples"] == 1
    owner = np.concatenate((chunks["request"][sampled], runs["request"]))
    at = chunks["iteration"][sampled]
    first = np.concatenate((at, steps[runs["first_step"]]))
    last = np.concatenate((at, steps[runs["first_step"] + runs["num_tokens"] - 1]))
    order = np.lexsort((first, owner))
    owner, first, last = owner[order], first[order], last[order]
    same = owner[1:] == owner[:-1]
    before = np.concatenate((steps[shared - 1], last[:-1][same]))
    return before, np.concatenate((steps[shared], first[1:][same]))
