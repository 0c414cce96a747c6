"""`ChunkedPrefillMonitor`: how prompts and decodes fare, in constant memory however long it runs.

It takes records one by one or as arrays, follows a live engine (`follow`), or reads a whole record
(`read`). It keeps sketches and sums, never the values. What it saw leaves as a dict, as a report,
or as a `Reading` for alerts and advice.
"""

from __future__ import annotations

from math import inf, nan
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from coursekit.monitor.reading import Reading
from coursekit.monitor.report import describe_monitor
from coursekit.monitor.sketch import RELATIVE_ERROR, QuantileSketch, check_values

if TYPE_CHECKING:
    from coursekit.cost.base import CostModel
    from coursekit.live import LiveEngine
    from coursekit.monitor.engine_feed import EngineFeed
    from coursekit.trace import Trace

SKETCHES = (
    "prefill_s", "decode_s", "blocking_s", "ttft_s", "queue_s",
    "iteration_tokens", "prompt_length", "output_length",
)  # fmt: skip

CALLED = {  # in the summary
    "prefill_s": "prefill_latency", "decode_s": "decode_latency", "blocking_s": "blocking_time",
    "ttft_s": "ttft", "queue_s": "queue_time",
}  # fmt: skip


class ChunkedPrefillMonitor:
    """Records of prefills and decodes; any number of threads may record at once.

    A prefill is one request's prompt, whole; a decode is one token's gap (ITL). relative_error: of
    every quantile, see `QuantileSketch`; means, counts and maxima are exact. Raises ValueError for
    times that are negative or not finite, and then the record is not counted at all.
    """

    def __init__(self, relative_error: float = RELATIVE_ERROR):
        self.relative_error = relative_error
        self._lock = Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sketch = {name: QuantileSketch(self.relative_error) for name in SKETCHES}
            self._sums = dict.fromkeys(("chunks", "prefill", "output", "preempted", "span_s"), 0)
            self._means = {name: _Mean() for name in ("running", "waiting", "kv_usage")}
            self._counts_tokens = False
            self._num_kv_tokens = nan
            self._source = "records"
            self._decodes, self._prefills = self._sketch["decode_s"], self._sketch["prefill_s"]

    # --- Records ---

    def record_prefill(
        self, num_chunks: int, latency_s: float, blocking_time_s: float | None = None
    ) -> None:
        """One request's prompt: chunks it took (>= 1), seconds from its first chunk's start to its
        first token, and seconds by which it lengthened iterations that others decoded in.

        blocking_time_s: None if it is not known, which is not 0.
        """
        if num_chunks < 1:
            raise ValueError(f"num_chunks must be >= 1, got {num_chunks}")
        if blocking_time_s is not None and not 0 <= blocking_time_s < inf:
            raise ValueError(f"blocking_time_s must be finite and >= 0, got {blocking_time_s}")
        with self._lock:
            self._prefills.add(latency_s)
            if blocking_time_s is not None:
                self._sketch["blocking_s"].add(blocking_time_s)
            self._sums["chunks"] += num_chunks

    def record_decode(self, latency_s: float) -> None:
        """One token's gap: seconds since the token before it of the same request."""
        with self._lock:
            self._decodes.add(latency_s)

    def record_many(self, latencies_s, weights=None) -> None:
        """Gaps of many tokens, an array of seconds, each `weight` times (once if None)."""
        with self._lock:
            self._decodes.add_many(latencies_s, weights)

    def record_prefills(self, num_chunks, latencies_s, blocking_times_s=None) -> None:
        """Prompts of many requests: arrays as in `record_prefill`; None: no blocking is known."""
        num_chunks, latencies_s = np.asarray(num_chunks), np.asarray(latencies_s, float)
        blocking_times_s = np.asarray(() if blocking_times_s is None else blocking_times_s, float)
        if len(num_chunks) != len(latencies_s) or len(blocking_times_s) not in (0, len(num_chunks)):
            raise ValueError(
                f"arrays must be of one length, got {len(num_chunks)} chunk counts, "
                f"{len(latencies_s)} latencies and {len(blocking_times_s)} blocking times"
            )
        if len(num_chunks) and num_chunks.min() < 1:
            raise ValueError(f"num_chunks must be >= 1, got {num_chunks.min()}")
        check_values(blocking_times_s)
        with self._lock:
            self._prefills.add_many(latencies_s)
            self._sketch["blocking_s"].add_many(blocking_times_s)
            self._sums["chunks"] += int(num_chunks.sum())

    def record_request(self, name: str, values) -> None:
        """More of requests: `name` is one of ttft_s, queue_s, prompt_length, output_length."""
        if name not in ("ttft_s", "queue_s", "prompt_length", "output_length"):
            raise ValueError(f"name must be ttft_s, queue_s or a length, got {name!r}")
        with self._lock:
            self._sketch[name].add_many(values)

    def record_iterations(
        self, num_prefill_tokens, num_decode_tokens, durations_s, num_preempted: int = 0,
        **levels,
    ) -> None:  # fmt: skip
        """Iterations, arrays of one kind each; levels: running, waiting, kv_usage during them."""
        prefill, decode = np.atleast_1d(num_prefill_tokens), np.atleast_1d(num_decode_tokens)
        durations_s = np.atleast_1d(durations_s)
        with self._lock:
            self._sketch["iteration_tokens"].add_many(prefill + decode)
            self._counts_tokens = True
            self._sums["prefill"] += int(prefill.sum())
            self._sums["output"] += int(decode.sum())
            self._sums["preempted"] += num_preempted
            for name, values in levels.items():
                self._means[name].add_many(np.atleast_1d(np.asarray(values, float)), durations_s)

    def record_span(self, seconds: float, source: str, num_kv_tokens: float = nan) -> None:
        """Seconds more that the records cover, where they are from, and what the KV cache holds."""
        with self._lock:
            self._sums["span_s"] += seconds
            self._source, self._num_kv_tokens = source, num_kv_tokens

    # --- Sources ---

    def follow(self, engine: LiveEngine) -> EngineFeed:
        """What to give a live engine: `engine.run(source, on_step=monitor.follow(engine))`."""
        from coursekit.monitor.engine_feed import EngineFeed

        return EngineFeed(self, engine)

    def read(self, trace: Trace, cost: CostModel | None = None) -> None:
        """Count a whole record. cost: of the run, for its blocking; else see `decode_baseline`."""
        from coursekit.monitor.trace_feed import read_trace

        read_trace(self, trace, cost)

    # --- What was seen ---

    def get_summary(self) -> dict[str, float]:
        """Counts, means, P95, P99 (within `relative_error`) and maxima; seconds end in `_s`.

        Only what was recorded is in it; without any record it holds the counts, all 0.
        total_requests counts requests; a decode step is not one, as it was in the module's text.
        """
        with self._lock:
            requests, chunks = self._prefills.count, self._sums["chunks"]
            summary = {
                "total_requests": requests,
                "total_decode_steps": self._decodes.count,
                "total_chunks_processed": chunks,
            }
            if requests:
                summary["avg_chunks_per_request"] = chunks / requests
            for name, called in CALLED.items():
                if (sketch := self._sketch[name]).count:
                    summary |= _summary_of(called, sketch)
            return summary

    def reading(self) -> Reading:
        """What was seen, for alerts, advice and the exporter."""
        with self._lock:
            spreads = {name: sketch.spread() for name, sketch in self._sketch.items()}
            sums, known = self._sums, self._counts_tokens
            kv = self._means["kv_usage"]
            return Reading(
                source=self._source, span_s=float(sums["span_s"]), itl=spreads["decode_s"],
                ttft=spreads["ttft_s"], queue=spreads["queue_s"],
                iteration_tokens=spreads["iteration_tokens"],
                prompt_length=spreads["prompt_length"], output_length=spreads["output_length"],
                num_prefill_tokens=sums["prefill"] if known else nan,
                num_output_tokens=sums["output"] if known else nan,
                num_preemptions=sums["preempted"] if known else nan,
                num_running=self._means["running"].mean, num_waiting=self._means["waiting"].mean,
                kv_usage=kv.mean, kv_usage_max=kv.largest, num_kv_tokens=self._num_kv_tokens,
            )  # fmt: skip

    def print_report(self) -> None:
        """Print what was seen; also when that is nothing."""
        print(describe_monitor(self.get_summary(), self.relative_error, self._source))


class _Mean:
    """Mean over time, and the greatest, of a level."""

    def __init__(self):
        self._total, self._weight, self._largest = 0.0, 0.0, -inf

    def add_many(self, values: np.ndarray, weights: np.ndarray) -> None:
        self._total += float(values @ weights)
        self._weight += float(weights.sum())
        self._largest = max(self._largest, float(values.max(initial=-inf)))

    @property
    def mean(self) -> float:
        return self._total / self._weight if self._weight else nan

    @property
    def largest(self) -> float:
        return self._largest if self._weight else nan


def _summary_of(called: str, sketch: QuantileSketch) -> dict[str, float]:
    p95, p99 = (sketch.percentile(percent).value for percent in (95, 99))
    return {f"avg_{called}_s": sketch.mean, f"p95_{called}_s": p95, f"p99_{called}_s": p99,
            f"max_{called}_s": sketch.largest}  # fmt: skip
