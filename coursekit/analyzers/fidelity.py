"""How near a prediction comes to what was measured: iteration by iteration, request by request.

An error is relative and signed, 0.01 for 1% too much. Errors of iterations ask the cost model
about the batches that really ran, so they are its own; those of requests hold all that follows
from them, queueing and the moments at which iterations begin included.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coursekit.cost.base import CostModel
from coursekit.cost.from_trace import measured_iterations
from coursekit.metrics import request_metrics
from coursekit.trace import Trace

STATISTICS = ("mean", "P50", "P90", "P95", "P99")
METRICS = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "latency"}


@dataclass(frozen=True, slots=True)
class Compared:
    """One statistic of one metric, in seconds, over `num_requests` requests."""

    metric: str
    statistic: str
    predicted_s: float
    measured_s: float
    num_requests: int

    @property
    def error(self) -> float:
        """Relative: 0.01 is 1% too much."""
        return self.predicted_s / self.measured_s - 1


def compare(
    predicted: dict[str, np.ndarray], measured: dict[str, np.ndarray]
) -> list[Compared]:
    """TTFT, TPOT and latency at mean, P50, P90, P95 and P99: 15 rows.

    Each argument: ttft_s, tpot_s and e2e_s by request, as `request_metrics` makes them; nan
    does not count. Raises ValueError if a metric is missing, or has no request.
    """
    rows = []
    for key, name in METRICS.items():
        values = [_finite(key, each) for each in (predicted, measured)]
        ours, theirs = (_statistics(each) for each in values)
        rows += [
            Compared(name, statistic, a, b, len(values[1]))
            for statistic, a, b in zip(STATISTICS, ours, theirs, strict=True)
        ]
    return rows


def predicted_metrics(trace: Trace) -> dict[str, np.ndarray]:
    """What `compare` takes, of a record."""
    metrics = request_metrics(trace)
    return {key: metrics[key] for key in METRICS}


def _finite(key: str, metrics: dict[str, np.ndarray]) -> np.ndarray:
    if key not in metrics:
        raise ValueError(f"a comparison needs {', '.join(METRICS)}, got {', '.join(metrics)}")
    values = metrics[key][~np.isnan(metrics[key])]
    if not len(values):
        raise ValueError(f"no request has a {key}; compare runs in which some finish")
    return values


def _statistics(values: np.ndarray) -> list[float]:
    return [float(values.mean()), *np.percentile(values, [50, 90, 95, 99]).tolist()]


def iteration_errors(cost: CostModel, measured: Trace) -> np.ndarray:
    """Error of `cost` on each iteration of a record, (num_iterations,)."""
    rows = measured_iterations(measured)
    seconds = [cost.iteration_s(row.num_decodes, row.decode_context, row.chunks) for row in rows]
    return np.array(seconds) / [row.seconds for row in rows] - 1


def request_errors(predicted: Trace, measured: Trace) -> dict[str, np.ndarray]:
    """Error of each request's ttft_s, tpot_s and e2e_s, (num_requests,) each.

    nan where either is nan. Raises ValueError for records of different requests.
    """
    ours, theirs = predicted.requests["request"], measured.requests["request"]
    if not np.array_equal(ours, theirs):
        raise ValueError(
            f"the records must be of the same requests, got {len(ours)} and {len(theirs)}; "
            "run the workload that was measured"
        )
    a, b = request_metrics(predicted), request_metrics(measured)
    return {key: a[key] / b[key] - 1 for key in METRICS}
