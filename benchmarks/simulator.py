"""How fast the simulator is: beside its own plain walk, vLLM's scheduler, and other simulators.

    python benchmarks/simulator.py [--traces FOLDER] [--quick]

Times are wall seconds of one process on one core. The event loop is the median of five runs
in this process; whole commands and the million requests run in processes of their own. The
other simulators' figures were measured elsewhere, on another 2-core machine, and are there to
compare orders of magnitude with; vLLM's scheduler is measured here, in the same run.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import Row, publish

from coursekit.request import Request
from coursekit.simulate import simulate
from coursekit.workload import Workload, read_workload

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {"hardware": "a100", "model": "llama-2-7b", "token_budget": 512, "max_num_seqs": 128}
TRACES = {"conv_1k_q3": 1_000, "conv_10k_q4": 10_000}
# seconds, event loop alone: Vidur (Python), BLIS (Go), DynoSim (Rust), measured elsewhere
ELSEWHERE = {
    "conv_1k_q3": {"Vidur": 3.1, "BLIS": 0.60, "DynoSim core": 0.107},
    "conv_10k_q4": {"Vidur": 17.9, "BLIS": 6.0, "DynoSim core": 0.835},
}
LOOP_TARGET_S = {"conv_1k_q3": 0.05, "conv_10k_q4": 0.4}
COMMAND_TARGET_S = {"conv_1k_q3": 1.0, "conv_10k_q4": 2.0}
COMMAND_ELSEWHERE_S = {"conv_1k_q3": 16.0, "conv_10k_q4": 57.0}  # Vidur, to written metrics
MILLION_TARGET_S, MILLION_TARGET_GIB = 40.0, 2.0
FLAT = 1.2  # cost per request at 1,000,000 against 10,000
WIDGET_TARGET_S = 0.020


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=ROOT.parent / "shared" / "traces")
    parser.add_argument("--quick", action="store_true", help="without the million requests")
    parser.add_argument("--million", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.million:
        return print(json.dumps(run_million(options.million)))
    rows = []
    for name in TRACES:
        path = options.traces / f"{name}.csv"
        if not path.is_file():
            sys.exit(f"no {path.name} in the traces folder; name the folder with --traces")
        rows += loop_rows(name, path)
        rows.append(command_row(name, path))
    rows.append(widget_row(options.traces / "conv_1k_q3.csv"))
    rows += vllm_rows()
    if not options.quick:
        rows += million_rows(options.traces / "conv_10k_q4.csv", rows)
    publish("simulator", "python benchmarks/simulator.py", rows)


def loop_s(workload: Workload, jump: bool = True, repeats: int = 5) -> float:
    """Median seconds of the event loop alone: no reading, no metrics."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        simulate(workload, jump=jump, **SETTINGS)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def loop_rows(name: str, path: Path) -> list[Row]:
    workload = read_workload(path)
    ours, walk = loop_s(workload), loop_s(workload, jump=False)
    target = LOOP_TARGET_S[name]
    what = f"{name}, event loop"
    rows = [
        Row(f"{what}, beside {other}", ours, theirs, "s", f"<= {target} s", ours <= target,
            "reference measured elsewhere")
        for other, theirs in ELSEWHERE[name].items()
    ]  # fmt: skip
    return rows + [Row(f"{what}, beside its own walk", ours, walk, "s", "<= walk", ours <= walk)]


def command_row(name: str, path: Path) -> Row:
    """Process start to parquet and table, as a user runs it; the best of three."""
    times = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "coursekit", "simulate", "--trace", str(path)]
            began = time.perf_counter()
            subprocess.run(
                [*command, "--out", f"{folder}/run.parquet"], check=True, capture_output=True
            )
            times.append(time.perf_counter() - began)
    ours, target = min(times), COMMAND_TARGET_S[name]
    return Row(
        f"{name}, process start to parquet and table, beside Vidur", ours,
        COMMAND_ELSEWHERE_S[name], "s", f"<= {target} s", ours <= target,
        "reference measured elsewhere",
    )  # fmt: skip


def widget_row(path: Path) -> Row:
    workload = first(read_workload(path), 200)
    ours = loop_s(workload, repeats=15)
    target = WIDGET_TARGET_S
    return Row("200 requests, event loop", ours, None, "s", f"<= {target} s", ours <= target)


def first(workload: Workload, count: int) -> Workload:
    """The first `count` requests."""
    return Workload(
        workload.arrival_s[:count], workload.num_prompt_tokens[:count],
        workload.num_output_tokens[:count],
    )  # fmt: skip


def vllm_rows() -> list[Row]:
    """Steps per second of vLLM's own scheduler and of ours, in the same 300 requests' life."""
    what, target = "scheduler, every step walked, beside vLLM's own", "faster"
    sys.path.insert(0, str(ROOT))
    try:
        from tests.oracle.vllm_driver import steps_of_vllm
    except ImportError as error:
        return [Row(what, None, None, "steps/s", target, None, f"no vLLM here: {error}")]
    from tests.oracle.ours import make_scheduler
    from tests.oracle.strategies import Arrival, Case, Settings

    settings = Settings(512, 128, 8000, 16, 4096)
    arrivals = tuple(Arrival(8 * k, 200 + 13 * k % 1500, 100 + 7 * k % 200) for k in range(300))
    case = Case(settings, arrivals)
    began = time.perf_counter()
    num_steps = sum(1 for _ in steps_of_vllm(case))
    theirs = num_steps / (time.perf_counter() - began)
    scheduler = make_scheduler(settings)
    requests = [
        Request(k, float(k), a.num_prompt_tokens, a.max_tokens) for k, a in enumerate(arrivals)
    ]
    began = time.perf_counter()
    ours = walk(scheduler, requests, arrivals) / (time.perf_counter() - began)
    return [Row(what, ours, theirs, "steps/s", target, ours > theirs, "same run, same requests")]


def walk(scheduler, requests, arrivals) -> int:
    """Take all steps of a scheduler, one by one; return how many."""
    coming, now = 0, 0
    while coming < len(requests) or scheduler.has_requests:
        while coming < len(requests) and arrivals[coming].arrival_step <= now:
            scheduler.add_request(requests[coming])
            coming += 1
        scheduler.update(scheduler.schedule())
        now += 1
    return now


def million_rows(path: Path, rows: list[Row]) -> list[Row]:
    command = [sys.executable, __file__, "--million", str(path)]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    seconds, gib = answer["seconds"], answer["gib"]
    small = next(row.ours for row in rows if row.what.startswith("conv_10k_q4, event loop"))
    per_request, per_small = seconds / 1e6, small / 1e4
    flat = per_request <= FLAT * per_small
    return [
        Row("1,000,000 requests, event loop", seconds, None, "s", f"<= {MILLION_TARGET_S:.0f} s",
            seconds <= MILLION_TARGET_S),
        Row("1,000,000 requests, most memory", gib, None, "GiB", f"<= {MILLION_TARGET_GIB:.0f} GiB",
            gib <= MILLION_TARGET_GIB),
        Row("cost per request, 1,000,000 beside 10,000", per_request * 1e6, per_small * 1e6, "µs",
            f"<= {FLAT} times", flat),
    ]  # fmt: skip


def run_million(path: Path) -> dict:
    """Serve the trace a hundred times over, each after the last; seconds and peak memory."""
    once = read_workload(path)
    span = once.arrival_s[-1] + 1 / 4.0  # the trace arrives at 4 requests per second
    arrivals = (once.arrival_s[None, :] + span * np.arange(100)[:, None]).ravel()
    workload = Workload(
        arrivals, np.tile(once.num_prompt_tokens, 100), np.tile(once.num_output_tokens, 100)
    )
    began = time.perf_counter()
    trace = simulate(workload, **SETTINGS)
    seconds = time.perf_counter() - began
    if np.isnan(trace.requests["finished_s"]).any():
        sys.exit("not every request finished")
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "gib": kib / 2**20}


if __name__ == "__main__":
    main()
