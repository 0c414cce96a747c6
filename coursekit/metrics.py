"""Metrics of a record, in the field's words.

TTFT: arrival to first token. ITL: one gap between a request's consecutive tokens. TPOT: mean
of a request's ITLs. E2E: arrival to last token. Scheduling delay: arrival to the start of the
first iteration with a token of the request. Percentiles are over tokens for ITL and over
finished requests for the rest; every table says which, and how many. All times in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coursekit.itl import itls, worst_itls_s
from coursekit.schedulers.base import NO_LIMIT
from coursekit.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to count as served well, in seconds; None: no limit.

    ttft_s: to the first token; itl_s: its worst gap; tpot_s: its mean gap; e2e_s: to the last
    token. Raises ValueError for a limit <= 0, or if there is none.
    """

    ttft_s: float | None = None
    itl_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self):
        limits = {name: getattr(self, name) for name in self.__slots__}
        given = {name: value for name, value in limits.items() if value is not None}
        if not given:
            raise ValueError(f"an SLO needs at least 1 limit of {', '.join(limits)}, got none")
        for name, value in given.items():
            if not value > 0:
                raise ValueError(f"{name} must be > 0 s, got {value}")


def request_metrics(trace: Trace) -> dict[str, np.ndarray]:
    """Per request, in the order of `trace.requests`, seconds; nan where there is none (yet).

    Keys: ttft_s, scheduling_delay_s, e2e_s, tpot_s (nan with one token), worst_itl_s.
    """
    requests = trace.requests
    arrival_s, first_s = requests["arrival_s"], requests["first_token_s"]
    finished_s = requests["finished_s"]
    gaps = requests["num_output_tokens"] - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        tpot_s = np.where(gaps > 0, (finished_s - first_s) / gaps, np.nan)
    return {
        "ttft_s": first_s - arrival_s,
        "scheduling_delay_s": requests["first_scheduled_s"] - arrival_s,
        "e2e_s": finished_s - arrival_s,
        "tpot_s": tpot_s,
        "worst_itl_s": worst_itls_s(trace),
    }


def summarize(trace: Trace) -> list[dict]:
    """One row per metric: metric, over, n, mean, p50, p90, p95, p99, max; seconds.

    Rows over requests leave out those that have not finished (`totals` counts them); the row
    over tokens holds every gap of the record.
    """
    finished = ~np.isnan(trace.requests["finished_s"])
    rows = []
    for name, values in request_metrics(trace).items():
        kept = values[finished & ~np.isnan(values)]
        rows.append(_row(name, "requests", kept, np.ones(len(kept), "i8")))
    rows.insert(3, _row("itl_s", "tokens", *itls(trace)))
    return rows


def summary_table(trace: Trace) -> pd.DataFrame:
    """`summarize` as a DataFrame, one row per metric."""
    import pandas as pd

    return pd.DataFrame(summarize(trace)).set_index("metric")


def totals(trace: Trace, slo: Slo | None = None) -> dict[str, float]:
    """What describes the run as a whole.

    Rates are per second from the first arrival to the last iteration's end. tokens_per_s counts
    what users see served: prompts that have their first token, and output, once each, whatever
    was computed again after a preemption. With `slo`, goodput is the rate of requests that keep
    it, and slo_fraction their share of all that arrived (nan if none did).
    fairness is Jain's index (Jain, Chiu, Hawe 1984) of the finished requests' E2E per output
    token: 1 if all wait the same for a token, 1/n if one waits for everything. kv_*: share of
    the KV blocks in use, by time, if the record knows how many there are.
    """
    requests, iterations = trace.requests, trace.iterations
    finished = ~np.isnan(requests["finished_s"])
    span_s = _span_s(trace)
    prompt = requests["num_prompt_tokens"][~np.isnan(requests["first_token_s"])].sum()
    output = requests["num_output_tokens"].sum()
    found = {
        "num_requests": trace.num_requests,
        "num_unfinished": int((~finished).sum()),
        "num_iterations": trace.num_iterations,
        "span_s": span_s,
        "requests_per_s": _rate(finished.sum(), span_s),
        "output_tokens_per_s": _rate(output, span_s),
        "tokens_per_s": _rate(prompt + output, span_s),
        "fairness": jain_index(_e2e_s_per_token(trace)[finished]),
        "num_preemptions": int(iterations["num_preempted"].sum()),
        **_kv_occupancy(trace),
    }
    if slo is not None:
        kept = int(keeps(trace, slo).sum())
        share = kept / trace.num_requests if trace.num_requests else np.nan
        found |= {"goodput_per_s": _rate(kept, span_s), "slo_fraction": share}
    return found


def keeps(trace: Trace, slo: Slo) -> np.ndarray:
    """Whether each request has finished and kept the SLO, (num_requests,)."""
    metrics = request_metrics(trace)
    kept = ~np.isnan(trace.requests["finished_s"])
    names = {"ttft_s": "ttft_s", "itl_s": "worst_itl_s", "tpot_s": "tpot_s", "e2e_s": "e2e_s"}
    for limit, metric in names.items():
        if (most := getattr(slo, limit)) is not None:
            kept &= ~(metrics[metric] > most)  # nan: a request of one token has no gap to miss
    return kept


def num_stalls(trace: Trace, itl_s: float) -> int:
    """How many gaps were longer than `itl_s` seconds."""
    values, weights = itls(trace)
    return int(weights[values > itl_s].sum())


def jain_index(values: np.ndarray) -> float:
    """Jain's fairness index of positive values: (sum x)^2 / (n sum x^2); nan for none."""
    return float(values.sum() ** 2 / (len(values) * (values**2).sum())) if len(values) else np.nan


def weighted_percentiles(values: np.ndarray, weights: np.ndarray, percents) -> np.ndarray:
    """Percentiles of `values`, each counted `weight` times, as numpy's default does them.

    Linear between neighbours of the sorted, repeated values, which are never written out.
    nan without values.
    """
    if not len(values):
        return np.full(len(percents), np.nan)
    order = np.argsort(values, kind="stable")
    values, ends = values[order], np.cumsum(weights[order])
    places = np.asarray(percents) / 100 * (ends[-1] - 1)
    below = np.floor(places).astype("i8")
    above = np.minimum(below + 1, ends[-1] - 1)
    low, high = (values[np.searchsorted(ends, place, "right")] for place in (below, above))
    return low + (high - low) * (places - below)


def _e2e_s_per_token(trace: Trace) -> np.ndarray:
    """E2E of each request by its output tokens, (num_requests,), seconds; nan if unfinished."""
    requests = trace.requests
    return (requests["finished_s"] - requests["arrival_s"]) / np.maximum(
        requests["num_output_tokens"], 1
    )


def _row(name: str, over: str, values: np.ndarray, weights: np.ndarray) -> dict:
    total = int(weights.sum())
    mean = float((values * weights).sum() / total) if total else np.nan
    quantiles = weighted_percentiles(values, weights, PERCENTILES)
    named = {f"p{percent}": float(q) for percent, q in zip(PERCENTILES, quantiles)}
    most = float(values.max()) if total else np.nan
    return {"metric": name, "over": over, "n": total, "mean": mean, **named, "max": most}


def _span_s(trace: Trace) -> float:
    if not trace.num_iterations or not trace.num_requests:
        return 0.0
    return float(trace.iterations["end_s"][-1] - trace.requests["arrival_s"].min())


def _rate(count: float, span_s: float) -> float:
    return float(count / span_s) if span_s > 0 else 0.0


def _kv_occupancy(trace: Trace) -> dict[str, float]:
    num_blocks = trace.info.get("scheduler", {}).get("num_blocks")
    if not num_blocks or num_blocks >= NO_LIMIT or not trace.num_iterations:
        return {}
    durations = trace.iterations["end_s"] - trace.iterations["start_s"]
    used = trace.iterations["num_blocks_used"] / num_blocks
    return {"kv_mean": float(np.average(used, weights=durations)), "kv_max": float(used.max())}
