"""The monitor: records per second, error of its quantiles beside the exact ones, memory.

    python benchmarks/monitor.py

Speeds are the median of five runs in this process; leave the machine alone meanwhile. Errors are the
worst of P50, P90, P95, P99 and P99.9 over ten draws of 100,000 values.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import threading
import time
from pathlib import Path

import numpy as np
from record import Row, publish

from coursekit.monitor import ChunkedPrefillMonitor, QuantileSketch, read_metrics
from coursekit.monitor.vllm_metrics import Window

SPEED_TARGET = 200_000
NUM_RECORDS = 200_000
PERCENTS = (50, 90, 95, 99, 99.9)
DISTRIBUTIONS = {
    "log-normal (sigma 1)": lambda random, n: random.lognormal(-3, 1, n),
    "exponential": lambda random, n: random.exponential(0.05, n),
    "uniform": lambda random, n: random.uniform(0.01, 0.1, n),
    "Pareto (index 1.1, no mean of squares)": lambda random, n: 0.01 * (1 + random.pareto(1.1, n)),
    "decodes with one gap in 80 behind a prefill": lambda random, n: np.where(
        random.random(n) < 1 / 80, random.normal(1.2, 0.05, n), random.normal(0.045, 0.002, n)
    ),
    "all the same": lambda random, n: np.full(n, 0.0451),
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = [*speed_rows(), threads_row(), *error_rows(), *memory_rows(), scrape_row()]
    publish("monitor", "python benchmarks/monitor.py", rows)


# --- Speed ---


def speed_rows() -> list[Row]:
    values = np.random.default_rng(0).lognormal(-3, 1, NUM_RECORDS)
    each = values.tolist()

    def decodes(monitor):
        for value in each:
            monitor.record_decode(value)

    def prefills(monitor):
        for value in each:
            monitor.record_prefill(4, value, 0.5 * value)

    ways = {
        "record_decode, one by one": decodes,
        "record_prefill with blocking time, one by one": prefills,
        "record_many, arrays of 200,000": lambda monitor: monitor.record_many(values),
        "record_many, arrays of 100": lambda monitor: [
            monitor.record_many(values[at : at + 100]) for at in range(0, NUM_RECORDS, 100)
        ],
    }
    return [speed_row(what, statistics.median(timed(way) for _ in range(5))) for what, way in ways.items()]


def timed(way) -> float:
    """Seconds of NUM_RECORDS records in a monitor of their own."""
    monitor = ChunkedPrefillMonitor()
    began_s = time.perf_counter()
    way(monitor)
    return time.perf_counter() - began_s


def speed_row(what: str, seconds: float, note: str = "") -> Row:
    rate = NUM_RECORDS / seconds
    return Row(what, rate, None, "records/s", f">= {SPEED_TARGET:,} records/s", rate >= SPEED_TARGET, note)


def threads_row() -> Row:
    """Four threads that share one monitor, and none of their records may be lost."""
    each = np.random.default_rng(0).lognormal(-3, 1, NUM_RECORDS // 4).tolist()

    def way(monitor):
        def record():
            for value in each:
                monitor.record_decode(value)

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counted = monitor.get_summary()["total_decode_steps"]
        if counted != NUM_RECORDS:
            raise RuntimeError(f"{counted} of {NUM_RECORDS} records were counted")

    seconds = statistics.median(timed(way) for _ in range(5))
    return speed_row("record_decode, four threads together", seconds, "one interpreter lock for all")


# --- Error ---


def error_rows() -> list[Row]:
    rows = []
    for name, draw in DISTRIBUTIONS.items():
        worst = max(worst_error(draw(np.random.default_rng(seed), 100_000)) for seed in range(10))
        rows.append(Row(
            f"quantiles of {name}: worst relative error", worst, None, "of it", "<= 0.01", worst <= 0.01 + 1e-12
        ))  # fmt: skip
    return rows


def worst_error(values: np.ndarray) -> float:
    """Beside the value at the same rank of the sorted values; their bounds must hold it as well."""
    sketch = QuantileSketch()
    for value in values.tolist():
        sketch.add(value)
    errors = []
    for percent in PERCENTS:
        found, exact = sketch.percentile(percent), np.percentile(values, percent, method="lower")
        if not found.low * (1 - 1e-12) <= exact <= found.high * (1 + 1e-12):
            raise RuntimeError(f"P{percent}: {exact} is not within {found}")
        errors.append(abs(found.value / float(exact) - 1))
    return max(errors)


# --- Memory ---


def memory_rows() -> list[Row]:
    random, monitor, sizes = np.random.default_rng(0), ChunkedPrefillMonitor(), {}
    for upto, more in ((100_000, 100_000), (1_000_000, 900_000)):
        for value in random.lognormal(-3, 1, more).tolist():
            monitor.record_decode(value)
            monitor.record_prefill(4, value, value)
        sizes[upto] = size_of(monitor)
    grown = sizes[1_000_000] / sizes[100_000]
    return [
        Row("memory after 1,000,000 decodes and as many prefills", sizes[1_000_000] / 1024,
            sizes[100_000] / 1024, "KiB", "<= 1.2 times that after 100,000", grown <= 1.2,
            "reference: after 100,000; a sketch has at most 2,048 bins, and more are used as extremes come"),
    ]  # fmt: skip


def size_of(monitor: ChunkedPrefillMonitor) -> int:
    """Bytes of all that it holds, pickled: its lock can't be, and holds nothing."""
    return len(pickle.dumps({name: part for name, part in vars(monitor).items() if name != "_lock"}))


# --- A look at a server ---


def scrape_row() -> Row:
    """Parsing a page and making a reading of a full window."""
    sample = Path(__file__).resolve().parents[1] / "tests" / "monitor" / "vllm_0.32_metrics.txt"
    text, window, seconds = sample.read_text(), Window(), []
    for second in range(120):
        began_s = time.perf_counter()
        window.add(read_metrics(text, 2.5 * second))
        window.reading("vLLM")
        seconds.append(time.perf_counter() - began_s)
    middle = statistics.median(seconds[-30:])
    return Row(
        "one look at /metrics and its reading, window of 120 looks", middle * 1e3, None, "ms", "<= 50 ms",
        middle <= 0.05, f"{len(text.splitlines())} lines, a fifth of what the server sends",
    )  # fmt: skip


if __name__ == "__main__":
    main()
