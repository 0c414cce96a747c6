"""How a monitor hears of prefills and decodes from a whole record, at once.

It counts as `engine_feed` does, which says what.
"""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from coursekit.itl import itls
from coursekit.metrics import request_metrics
from coursekit.schedulers.base import NO_LIMIT

if TYPE_CHECKING:
    from coursekit.cost.base import CostModel
    from coursekit.monitor.chunked_prefill import ChunkedPrefillMonitor
    from coursekit.trace import Trace


def read_trace(monitor: ChunkedPrefillMonitor, trace: Trace, cost: CostModel | None) -> None:
    """Count all of `trace`; requests that have no token yet have no prefill yet."""
    found = _prefills(trace, cost)
    metrics, begun = request_metrics(trace), ~np.isnan(trace.requests["first_token_s"])
    monitor.record_prefills(found.num_chunks, found.latency_s, found.blocking_s)
    monitor.record_many(*itls(trace))
    monitor.record_request("ttft_s", metrics["ttft_s"][begun])
    monitor.record_request("queue_s", metrics["scheduling_delay_s"][begun])
    monitor.record_request("prompt_length", trace.requests["num_prompt_tokens"][begun])
    monitor.record_request("output_length", trace.requests["num_output_tokens"][begun])
    rows = trace.iterations
    usage, num_kv_tokens = _kv(trace)
    levels = {"running": rows["num_running"], "waiting": rows["num_waiting"], **usage}
    if trace.num_iterations:
        monitor.record_iterations(
            rows["num_prefill_tokens"], rows["num_decode_tokens"], rows["end_s"] - rows["start_s"],
            int(rows["num_preempted"].sum()), **levels,
        )  # fmt: skip
    span_s = float(rows["end_s"][-1]) if trace.num_iterations else 0.0
    monitor.record_span(span_s, trace.label, num_kv_tokens)


class _Prefills(NamedTuple):
    """Of requests with a first token, each (num_begun,); blocking_s None: not known."""

    num_chunks: np.ndarray
    latency_s: np.ndarray
    blocking_s: np.ndarray | None


def _prefills(trace: Trace, cost: CostModel | None) -> _Prefills:
    requests, chunks, rows = trace.requests, trace.chunks, trace.iterations
    begun = ~np.isnan(requests["first_token_s"])
    owner = np.searchsorted(requests["request"], chunks["request"])
    in_prefill = rows["end_s"][chunks["iteration"]] <= requests["first_token_s"][owner]
    owner, at = owner[in_prefill], chunks["iteration"][in_prefill]
    num_chunks = np.bincount(owner, minlength=trace.num_requests)[begun]
    latency_s = (requests["first_token_s"] - requests["first_scheduled_s"])[begun]
    blocking_s = _iteration_blocking_s(trace, cost)
    if blocking_s is not None:
        share = chunks["num_tokens"][in_prefill] / np.maximum(1, rows["num_prefill_tokens"][at])
        each = np.bincount(owner, blocking_s[at] * share, minlength=trace.num_requests)
        blocking_s = each[begun]
    return _Prefills(num_chunks, latency_s, blocking_s)


def _iteration_blocking_s(trace: Trace, cost: CostModel | None) -> np.ndarray | None:
    """Seconds by which prefill lengthened each iteration that has decodes; None if unknown."""
    from coursekit.analyzers.decode_baseline import decode_baseline

    rows = trace.iterations
    try:
        baseline_s, _ = decode_baseline(trace, cost)
    except ValueError:  # no iteration of decodes alone
        return None
    longer_s = rows["end_s"] - rows["start_s"] - baseline_s
    return np.where(rows["num_decode_tokens"] > 0, np.maximum(0.0, longer_s), 0.0)


def _kv(trace: Trace) -> tuple[dict[str, np.ndarray], float]:
    settings = trace.info.get("scheduler", {})
    num_blocks = settings.get("num_blocks")
    if not num_blocks or num_blocks >= NO_LIMIT:
        return {}, nan
    usage = {"kv_usage": trace.iterations["num_blocks_used"] / num_blocks}
    return usage, float(num_blocks * settings.get("block_size", nan))
