"""Rules of serving capacity: what a run must keep for its request rate to count as served.

Publications differ, and a capacity means nothing without its rule; so each rule has a name,
and every capacity carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coursekit.itl import itls
from coursekit.metrics import request_metrics, weighted_percentiles
from coursekit.trace import Trace

METRICS = ("itl_s", "scheduling_delay_s", "ttft_s")
_SHORT = {"itl_s": "TBT", "scheduling_delay_s": "scheduling delay", "ttft_s": "TTFT"}


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most_s` seconds at percentile `percent` (0 to 100) of `metric`, one of METRICS.

    Over tokens for itl_s, over all requests that arrived for the others. Raises ValueError for
    an unknown metric or a number out of range.
    """

    metric: str
    percent: float
    most_s: float

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {self.metric!r}")
        if not 0 <= self.percent <= 100:
            raise ValueError(f"percent must be in 0..100, got {self.percent}")
        if not self.most_s > 0:
            raise ValueError(f"most_s must be > 0 s, got {self.most_s}: give the limit in seconds")

    def __str__(self) -> str:
        which = "median" if self.percent == 50 else f"P{self.percent:g}"
        return f"{which} {_SHORT[self.metric]} <= {self.most_s:g} s"


@dataclass(frozen=True, slots=True)
class CapacityRule:
    """All `limits` at once; its name is made of them. Raises ValueError without a limit."""

    limits: tuple[Limit, ...]

    def __post_init__(self):
        if not self.limits:
            raise ValueError("a rule needs at least 1 limit, got none: see sarathi_rule")

    @property
    def name(self) -> str:
        """The limits in words."""
        return " and ".join(map(str, self.limits))

    def values_s(self, *traces: Trace) -> tuple[float, ...]:
        """What the run made of each limit, seconds; nan where there is no such gap or request.

        traces: the record, or those of the lanes of a pipeline, which count as one. A request
        that has not begun counts with the time it has waited until the record's end.
        Raises ValueError for a record without requests.
        """
        if not sum(trace.num_requests for trace in traces):
            raise ValueError("the record has no requests; capacity needs at least 1")
        return tuple(_percentile(traces, limit.metric, limit.percent) for limit in self.limits)

    def holds(self, *traces: Trace) -> bool:
        """Whether the run kept every limit; one without a value is kept."""
        values = self.values_s(*traces)
        return not any(value > limit.most_s for value, limit in zip(values, self.limits))


def sarathi_rule(tbt_s: float) -> CapacityRule:
    """Sarathi-Serve's (OSDI 2024): P99 TBT <= `tbt_s` and median scheduling delay <= 2 s."""
    return CapacityRule((Limit("itl_s", 99, tbt_s), Limit("scheduling_delay_s", 50, 2.0)))


# Vidur's (MLSys 2024), which asks nothing of the tokens after the first iteration
VIDUR_RULE = CapacityRule((Limit("scheduling_delay_s", 99, 5.0),))


def _percentile(traces: Sequence[Trace], metric: str, percent: float) -> float:
    if metric == "itl_s":
        pairs = [itls(trace) for trace in traces]
        values, weights = (np.concatenate(column) for column in zip(*pairs))
    else:
        values = np.concatenate([_waits_s(trace, metric) for trace in traces])
        weights = np.ones(len(values), "i8")
    return float(weighted_percentiles(values, weights, [percent])[0])


def _waits_s(trace: Trace, metric: str) -> np.ndarray:
    """A metric of each request; where it has none yet, the time it has waited for it so far."""
    values = request_metrics(trace)[metric]
    if not len(values):
        return values
    ends_s = trace.iterations["end_s"]
    end_s = ends_s[-1] if len(ends_s) else trace.requests["arrival_s"].max()
    so_far = np.maximum(end_s - trace.requests["arrival_s"], 0.0)
    return np.where(np.isnan(values), so_far, values)
