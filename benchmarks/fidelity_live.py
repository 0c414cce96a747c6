"""Part b of `fidelity.py`: a cost fitted to one run of vLLM here predicts three others.

The engine is started once. It serves four workloads in real time; the first is what the cost is
fitted to, and no other is looked at before it is predicted. One of them is served twice: what
two real runs differ by, no prediction can be better than.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
from numpy.random import Generator
from record import Row

from coursekit.analyzers.fidelity import (
    METRICS, iteration_errors, predicted_metrics, request_errors,
)  # fmt: skip
from coursekit.analyzers.rerun import rerun
from coursekit.cost import CalibratedCost
from coursekit.cost.from_trace import measured_iterations
from coursekit.device import detect_device
from coursekit.metrics import summarize
from coursekit.trace import Trace
from coursekit.workload import Workload

MEDIAN_LIMIT, ITL_LIMIT = 0.05, 0.12
ENGINE = {"max_token_budget": 512, "max_num_seqs": 16, "max_model_len": 4096}
PROBE_STEPS, PROBE_COLD = 24, 6
TWICE, AGAIN = "interactive", "interactive, again"


def calibration(rng: Generator) -> Workload:
    """Everything a bit: prompts and outputs of all sizes."""
    count = 34
    prompts = np.exp(rng.uniform(np.log(16), np.log(3200), count)).astype(int)
    return Workload(np.cumsum(rng.exponential(0.7, count)), prompts, rng.integers(8, 120, count))


def long_context(rng: Generator) -> Workload:
    """Few and long."""
    count = 9
    arrivals = np.cumsum(rng.exponential(2.2, count))
    return Workload(arrivals, rng.integers(1500, 3200, count), rng.integers(40, 100, count))


def interactive(rng: Generator) -> Workload:
    """A chat: most questions short, some long, two a second."""
    count = 44
    prompts, outputs = (
        np.exp(np.log(middle) + spread * rng.standard_normal(count)).clip(least, most).astype(int)
        for middle, spread, least, most in ((180, 0.9, 16, 2000), (60, 0.5, 10, 150))
    )
    return Workload(np.cumsum(rng.exponential(0.5, count)), prompts, outputs)


def bursty(rng: Generator) -> Workload:
    """Three times fourteen at once."""
    arrivals = np.repeat([0.0, 7.0, 14.0], 14) + rng.uniform(0, 0.2, 42)
    return Workload(arrivals, rng.integers(100, 600, 42), rng.integers(20, 70, 42))


WORKLOADS: dict[str, Callable[[Generator], Workload]] = {
    "calibration": calibration, "long-context": long_context, "interactive": interactive,
    "bursty": bursty,
}  # fmt: skip


def live_rows(pictures: Path | None = None) -> list[Row]:
    """Rows for each of the three predicted workloads; "not measured yet" without vLLM."""
    workloads = {
        name: make(np.random.default_rng(seed))
        for seed, (name, make) in enumerate(WORKLOADS.items())
    }
    try:
        traces, probes_s = measure(workloads)
    except RuntimeError as error:
        return [
            Row(f"{name}: {what}", None, None, unit, target, None, str(error))
            for name in list(WORKLOADS)[1:]
            for what, unit, target in _WHATS
        ]
    first, *others = workloads
    cost = CalibratedCost.fit(
        measured_iterations(traces[first]), "the course's model", detect_device().label(),
        date.today().isoformat(),
    )  # fmt: skip
    quiet = f"probes {1e3 * min(probes_s):.1f} to {1e3 * max(probes_s):.1f} ms"
    rows = []
    for name in others:
        again = traces[AGAIN] if name == TWICE else None
        rows += rows_of(name, traces[name], again, workloads[name], cost, quiet, pictures)
    return rows


def measure(workloads: dict[str, Workload]) -> tuple[dict[str, Trace], list[float]]:
    """Serve each on vLLM: the records, and seconds of a decode step before, between and after."""
    from coursekit.device import num_cores
    from coursekit.live import VllmEngine

    threads = num_cores() if detect_device().kind == "cpu" else None
    engine = VllmEngine(num_threads=threads, **ENGINE)
    try:
        warm_up(engine)
        traces, probes_s = {}, [probe_s(engine)]
        for name in (*workloads, AGAIN):
            workload = workloads[TWICE if name == AGAIN else name]
            traces[name] = engine.run(workload.source())
            probes_s.append(probe_s(engine))
            print(f"{name}: {traces[name].num_iterations} iterations", file=sys.stderr)
    finally:
        engine.close()
    return traces, probes_s


def warm_up(engine) -> None:
    """Prompts of several lengths: the first run of a code path pays for it."""
    for length in (2500, 700, 200, 50, 20):
        engine.submit(length, 6)
        while engine.has_requests:
            engine.step()


def probe_s(engine) -> float:
    """Median seconds of a decode step of one stream, to see whether the machine is quiet."""
    index = engine.submit(16, PROBE_STEPS + 4)
    steps_s = [engine.step().duration_s for _ in range(PROBE_STEPS)]
    engine.cancel(index)
    return float(np.median(steps_s[PROBE_COLD:]))


_WHATS = [
    ("iteration, median absolute error", "%", f"<= {MEDIAN_LIMIT:.0%}"),
    *((f"{metric} of a request, median absolute error", "%", f"<= {MEDIAN_LIMIT:.0%}")
      for metric in METRICS.values()),
    ("P99 ITL", "s", f"within {ITL_LIMIT:.0%}"),
]  # fmt: skip


def rows_of(
    name: str, measured: Trace, again: Trace | None, workload: Workload, cost: CalibratedCost,
    note: str, pictures: Path | None,
) -> list[Row]:  # fmt: skip
    """Predict one workload, and compare; reference of an error: that of a second real run."""
    cost.extrapolated = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it is in the note
        predicted = rerun(measured, workload, cost)
        errors = [iteration_errors(cost, measured), *request_errors(predicted, measured).values()]
    floor = [None] * len(errors)
    if again is not None:
        floor = [None, *map(median_percent, request_errors(again, measured).values())]
        note += "; reference: a second real run beside the first"
    if cost.extrapolated:
        note += "; asked beyond the calibrated range"
    rows = [
        Row(f"{name}: {what}", median_percent(each), least, unit, target,
            median_percent(each) <= 100 * MEDIAN_LIMIT,
            f"n = {len(each)}, mean {np.nanmean(each):+.1%}; {note}")
        for (what, unit, target), each, least in zip(_WHATS, errors, floor)
    ]  # fmt: skip
    ours, theirs = (p99_itl_s(trace) for trace in (predicted, measured))
    what, unit, target = _WHATS[-1]
    holds = abs(ours / theirs - 1) <= ITL_LIMIT
    rows.append(Row(f"{name}: {what}", ours, theirs, unit, target, holds, ""))
    if pictures is not None:
        draw(name, predicted, measured, pictures)
    return rows


def median_percent(errors: np.ndarray) -> float:
    return 100 * float(np.nanmedian(np.abs(errors)))


def p99_itl_s(trace: Trace) -> float:
    """Over all gaps between tokens."""
    return next(row["p99"] for row in summarize(trace) if row["metric"] == "itl_s")


def draw(name: str, predicted: Trace, measured: Trace, folder: Path) -> None:
    from coursekit.plots.fidelity import cdfs

    folder.mkdir(parents=True, exist_ok=True)
    picture = cdfs(
        predicted_metrics(measured), predicted_metrics(predicted), measured.label, predicted.label
    )
    picture.savefig(folder / f"fidelity_{name}.png")
