"""The chunk-size optimizer: frugal beside exhaustive search, with noise and live; and its speed.

    python benchmarks/optimizer.py [--parts FOLDER] [PART ...]

Parts: noise (a simulated engine with noise, whose truth is known from many runs), simulated (wall
time), live-frugal and live-exhaustive (our engine with the course's model on this machine, which
should be left alone meanwhile). A part that is named is measured and kept in FOLDER; without
names all are measured that are not there. Once all are there the table is written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from record import Row, publish

ROOT = Path(__file__).resolve().parents[1]
NUM_SEEDS = 20
TOLERANCE, SHARE = 0.97, 1 / 3
LIVE_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 512)
LIVE_SLO_ITL_S, LIVE_REPEATS, LIVE_REQUESTS = 0.15, 3, 12  # a limit that binds
LIVE_SEARCHES = 3
SIMULATED_TARGET_S = 0.5
# Seen in the runs of these cases; why a search misses.
WHY_MISSED = {
    "chats at once, throughput, ITL P99 15 ms":
        "; of the best size, 1 run in 16 has its P99 not at 0.95 but at 2.0 of the limit, as a "
        "few more long iterations put the 99th percentile among them: a search that meets such a "
        "run takes the size for infeasible",
    "documents, goodput, ITL P99 80 ms":
        "; one stalled iteration fails all requests that decode in it: of budget 512, 1 run in 4 "
        "loses up to 30% of the goodput that the others have, and a few runs may all miss it; the "
        "exhaustive search errs so too",
    "documents at once, throughput, blocking 80 ms":
        "; the longest blocking time of a run hangs on one iteration, which a stall makes 2.5 times "
        "as long",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", help="what to measure")
    parser.add_argument("--parts", type=Path, help="where measured parts are kept")
    options = parser.parse_args()
    folder = options.parts or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for name in options.part or [n for n in PARTS if not (folder / f"{n}.json").exists()]:
        (folder / f"{name}.json").write_text(json.dumps(PARTS[name]()))
    missing = [name for name in PARTS if not (folder / f"{name}.json").exists()]
    if missing:
        return print(f"still to be measured: {', '.join(missing)}")
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in PARTS}
    rows = noise_rows(found["noise"]) + live_rows(found["live-frugal"], found["live-exhaustive"])
    publish("optimizer", "python benchmarks/optimizer.py", rows + simulated_rows(found["simulated"]))


# --- A simulated engine with noise ---


def measure_noise() -> dict[str, dict]:
    """By case: the searches that were right, frugal and exhaustive, and what they took."""
    sys.path.insert(0, str(ROOT))
    from tests.optimizers.frugal_study import CASES, try_exhaustively, try_once

    found = {}
    for name, case in CASES.items():
        seeds = range(3000, 3000 + NUM_SEEDS)  # no search was tuned on these
        frugal = [try_once(case, seed) for seed in seeds]
        every = [try_exhaustively(case, seed) for seed in seeds]
        found[name] = {
            "frugal": statistics.mean(each.right for each in frugal),
            "exhaustive": statistics.mean(each.right for each in every),
            "worst": min(each.ratio for each in frugal),
            "kept": statistics.mean(each.kept for each in frugal),
            "runs": statistics.mean(each.num_runs for each in frugal),
            "most_runs": max(each.num_runs for each in frugal),
            "exhaustive_runs": every[0].num_runs,
        }
        print(name, found[name], flush=True)
    return found


def noise_rows(found: dict[str, dict]) -> list[Row]:
    frugal, every = (
        statistics.mean(case[kind] for case in found.values()) for kind in ("frugal", "exhaustive")
    )
    rows = [Row(
        "engine with noise, all cases: searches right", frugal, every, "of 1", ">= 0.95",
        frugal >= 0.95,
        f"{len(found)} cases, {NUM_SEEDS} searches each, beside the exhaustive one",
    )]  # fmt: skip
    for name, case in found.items():
        rows.append(Row(
            f"engine with noise, {name}: searches right", case["frugal"], case["exhaustive"],
            "of 1", ">= 0.95", case["frugal"] >= 0.95,
            f"of {NUM_SEEDS}, beside the exhaustive search; right: within 3% of the true best and "
            f"within the SLO; worst objective {case['worst']:.3f} of the best, SLO kept by "
            f"{case['kept']:.0%}" + WHY_MISSED.get(name, "") * (case["frugal"] < 0.95),
        ))  # fmt: skip
        share = case["most_runs"] / case["exhaustive_runs"]
        rows.append(Row(
            f"engine with noise, {name}: most measurements", case["most_runs"],
            case["exhaustive_runs"], "runs", "<= 1/3", share <= SHARE,
            f"mean {case['runs']:.1f}",
        ))  # fmt: skip
    return rows


# --- Our engine on this machine ---


def live_engine():
    import torch

    from coursekit.device import num_cores
    from coursekit.live import TorchEngine
    from coursekit.models import load_model
    from coursekit.schedulers import TokenBudget

    torch.set_num_threads(num_cores())
    policy = TokenBudget(max(LIVE_SIZES), max_num_seqs=8)
    return TorchEngine(load_model(device="cpu"), policy, max_model_len=800)


def live_workload():
    from coursekit.workload import Workload, lognormal, poisson

    return Workload(
        poisson(8, LIVE_REQUESTS, seed=1), lognormal(LIVE_REQUESTS, 220, 450, 32, 600, seed=2),
        lognormal(LIVE_REQUESTS, 14, 24, 4, 30, seed=3),
    )  # fmt: skip


def measure_frugal() -> list[dict]:
    """What the optimizer answers in each of some independent searches, its runs and seconds."""
    from coursekit.optimizers import ChunkSizeOptimizer, RunSlo

    engine, found = live_engine(), []
    for _ in range(LIVE_SEARCHES):
        began, runs = time.perf_counter(), []
        answer = ChunkSizeOptimizer(engine, live_workload(), LIVE_SIZES).optimize(
            RunSlo(itl_s=LIVE_SLO_ITL_S), num_repeats=LIVE_REPEATS,
            on_run=lambda number, size, runs=runs: runs.append(size),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        found.append({"chosen": answer.chosen, "runs": runs, "seconds": seconds})
        print(answer.explain(), runs, flush=True)
    return found


def measure_exhaustive() -> dict:
    """Size -> throughput and ITL P99 of each of its runs, sizes in a new order each round."""
    from coursekit.optimizers.live_source import LiveSource
    from coursekit.optimizers.objective import RunSlo, row_of

    began, workload, slo = time.perf_counter(), live_workload(), RunSlo(itl_s=LIVE_SLO_ITL_S)
    runs: dict[int, list[tuple[float, float]]] = {size: [] for size in LIVE_SIZES}
    with LiveSource(live_engine) as live:
        live.warm_up(workload)
        for number in range(LIVE_REPEATS):
            for size in np.random.default_rng(number).permutation(LIVE_SIZES).tolist():
                live.engine.token_budget = size
                row = row_of(live.engine.run(workload.source()), slo)
                runs[size].append((row["tokens_per_s"], row["itl_p99_s"]))
    for size, pairs in runs.items():
        print(size, [f"{rate:.0f} tokens/s, {1e3 * itl:.0f} ms" for rate, itl in pairs], flush=True)
    return {"runs": runs, "seconds": time.perf_counter() - began}


def live_rows(searches: list[dict], every: dict) -> list[Row]:
    """The worst of the frugal searches, each choice judged by the exhaustive search's means."""
    means = {int(size): np.mean(pairs, axis=0) for size, pairs in every["runs"].items()}
    feasible = {size: rate for size, (rate, itl) in means.items() if itl <= LIVE_SLO_ITL_S}
    best = max(feasible, key=feasible.get)
    chosen = [search["chosen"] for search in searches]
    worst = min(0.0 if size is None else float(means[size][0]) for size in chosen)
    kept = all(size in feasible for size in chosen)
    what = (
        f"CPU, our engine, {LIVE_REQUESTS} requests, {len(LIVE_SIZES)} budgets, ITL P99 <= "
        f"{LIVE_SLO_ITL_S * 1e3:.0f} ms"
    )
    num_runs, most = LIVE_REPEATS * len(LIVE_SIZES), max(len(s["runs"]) for s in searches)
    choices = ", ".join(
        f"{size} ({means[size][0]:.0f} tokens/s, ITL P99 {1e3 * means[size][1]:.0f} ms)"
        for size in sorted({size for size in chosen if size is not None})
    )
    return [
        Row(f"{what}: throughput of the worst of {len(searches)} frugal choices", worst,
            feasible[best], "tokens/s", f">= {TOLERANCE} of the exhaustive best, SLO kept",
            bool(kept and worst >= TOLERANCE * feasible[best]),
            f"all as the exhaustive search measured them, means of {LIVE_REPEATS}; frugal chose "
            f"{', '.join(map(str, chosen))}: {choices}; the exhaustive best is {best}"),
        Row(f"{what}: most measurements", most, num_runs, "runs", "<= 1/3",
            most <= SHARE * num_runs,
            f"at most {max(s['seconds'] for s in searches):.0f} s beside {every['seconds']:.0f} s"),
    ]  # fmt: skip


# --- Simulated ---


def measure_simulated() -> dict[str, float]:
    """Seconds of a whole answer: 100 chats, seven budgets, on a modelled A100; medians of five."""
    sys.path.insert(0, str(ROOT))
    from coursekit.cost import RooflineCost
    from coursekit.optimizers import ChunkSizeOptimizer, RunSlo
    from tests.optimizers.noisy_engine import load

    optimizer = ChunkSizeOptimizer(
        RooflineCost("a100", "llama-2-7b"), load(4, 1, num_requests=100), num_blocks=6000
    )
    slo, times = RunSlo(itl_s=0.06, ttft_s=2), {"throughput": [], "goodput": [], "capacity": []}
    optimizer.optimize(slo)
    for objective, seconds in times.items():
        for _ in range(5):
            began = time.perf_counter()
            optimizer.optimize(slo, objective)
            seconds.append(time.perf_counter() - began)
    return {objective: statistics.median(seconds) for objective, seconds in times.items()}


def simulated_rows(found: dict[str, float]) -> list[Row]:
    rows = []
    for objective, seconds in found.items():
        target = SIMULATED_TARGET_S * (10 if objective == "capacity" else 1)
        rows.append(Row(
            f"simulated, 100 chats, 7 budgets, {objective}: whole answer", seconds, None, "s",
            f"<= {target:g} s", seconds <= target, "median of 5, one process",
        ))  # fmt: skip
    return rows


PARTS = {
    "noise": measure_noise, "simulated": measure_simulated, "live-frugal": measure_frugal,
    "live-exhaustive": measure_exhaustive,
}  # fmt: skip

if __name__ == "__main__":
    main()
