"""Reports for people: milliseconds, every percentile with what it is worth."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from coursekit.monitor.estimate import Spread, milliseconds

if TYPE_CHECKING:
    from coursekit.monitor.advice import Counsel
    from coursekit.monitor.reading import Reading

_PARTS = {
    "prefill_latency": "Prefill, first chunk to first token",
    "ttft": "TTFT",
    "queue_time": "Queue time",
    "decode_latency": "Decode, gaps between tokens (ITL)",
    "blocking_time": "Blocking of others by one prefill",
}


def describe_monitor(summary: dict[str, float], relative_error: float, source: str) -> str:
    """The report of a monitor, from its summary."""
    counts = [summary[name] for name in
              ("total_requests", "total_chunks_processed", "total_decode_steps")]  # fmt: skip
    lines = [f"Chunked prefill monitor, {source}"]
    if not any(counts):
        return f"{lines[0]}\n  Nothing was recorded."
    lines.append("  {:,} prefills in {:,} chunks, {:,} decode steps".format(*counts))
    if "avg_chunks_per_request" in summary:
        lines[-1] += f"; {summary['avg_chunks_per_request']:.1f} chunks a prefill"
    for called, title in _PARTS.items():
        if f"avg_{called}_s" in summary:
            each = (f"{name} {1e3 * summary[f'{name}_{called}_s']:.1f}"
                    for name in ("avg", "p95", "p99", "max"))  # fmt: skip
            lines.append(f"  {title}: {', '.join(each)} ms")
    if len(lines) > 2:
        error = f"{relative_error:.2g} of the value"
        lines.append(f"  Percentiles are within {error}; the rest is exact.")
    return "\n".join(lines)


def describe_reading(reading: Reading) -> str:
    """What a server did, a line a metric; percentiles have bounds, what is unknown is left out."""
    lines = [f"{reading.source}, the last {reading.span_s:.0f} s"]
    if not reading.is_up:
        lines.append("  It does not answer: these numbers are from before.")
    if reading.num_restarts:
        lines.append(f"  Restarted {reading.num_restarts} times; the counts go on over it.")
    for title, spread in (("TTFT", reading.ttft), ("ITL", reading.itl), ("Queue", reading.queue)):
        lines.append(f"  {title + ':':<13}{_seconds(spread)}")
    lines += [f"  {title + ':':<13}{text}" for title, text in _levels(reading) if text]
    return "\n".join(lines)


def describe_counsel(counsel: Counsel) -> str:
    """Advice with its evidence, then why there is not more of it."""
    lines = []
    for advice in counsel.advice:
        lines.append(f"* {advice}")
        lines += [f"    {name}: {value}" for name, value in advice.evidence.items()]
        lines.append(f"    source: {advice.source}")
    return "\n".join(lines + [f"- {note}" for note in counsel.notes])


def _seconds(spread: Spread) -> str:
    if not spread.n:
        return "nothing seen"
    p50, p99 = milliseconds(spread.p50), milliseconds(spread.p99)
    return f"P50 {p50}, P99 {p99}, mean {1e3 * spread.mean:.4g} ms, n {spread.n:,}"


def _levels(reading: Reading) -> list[tuple[str, str]]:
    tokens = reading.iteration_tokens
    iterations = f"mean {tokens.mean:.4g}, P95 up to {tokens.p95.high:.4g}, {tokens.n:,} iterations"
    rates = (f"{reading.prefill_tokens_per_s:.4g} prefill, "
             f"{reading.output_tokens_per_s:.4g} output tokens per second")  # fmt: skip
    return [
        ("Iterations", iterations if tokens.n else ""),
        ("Tokens", "" if isnan(reading.output_tokens_per_s) else rates),
        ("Requests", "" if isnan(reading.num_running) else
         f"{reading.num_running:.1f} running, {reading.num_waiting:.1f} waiting (means)"),
        ("KV usage", "" if isnan(reading.kv_usage) else
         f"mean {reading.kv_usage:.0%}, at most {reading.kv_usage_max:.0%}"),
        ("Preemptions", "" if isnan(reading.num_preemptions) else f"{reading.num_preemptions:g}"),
    ]  # fmt: skip
