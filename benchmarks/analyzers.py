"""The analyzers: speed of the blocking analysis, what its sums leave over, whether sources agree.

    python benchmarks/analyzers.py [--traces FOLDER] [--quick]

Blocking is analyzed on 10,000 simulated requests, the median of five runs in this process. Live
times are of the course's model in our own engine; leave the machine alone meanwhile. A recorded
profile is of one machine: on another one its row is reported and not judged.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
from record import Row, publish

from coursekit.analyzers import BlockingAnalysis, LiveTorchSource, PrefillDecodeAnalyzer
from coursekit.cost import CalibratedCost, RooflineCost, profiles, recorded_cost
from coursekit.device import detect_device
from coursekit.simulate import simulate
from coursekit.workload import read_workload

ROOT = Path(__file__).resolve().parents[1]
TRACE = "conv_10k_q4"
SETTINGS = {"hardware": "a100", "model": "llama-2-7b", "token_budget": 512, "max_num_seqs": 128}
SPEED_TARGET_S, RESIDUAL_TARGET, ESTIMATE_TARGET = 2.0, 1e-9, 0.01
AGREEMENT_TARGET = 0.15
PROMPTS, CHUNKS = (128, 512, 1024), (64, 256)
CONTEXTS, BATCHES = (64, 512, 960), (1, 4, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=Path, default=ROOT.parent / "shared" / "traces")
    parser.add_argument("--quick", action="store_true", help="without the live engine")
    options = parser.parse_args()
    rows = blocking_rows(options.traces / f"{TRACE}.csv")
    rows += live_rows(options.quick)
    publish("analyzers", "python benchmarks/analyzers.py", rows)


# --- Blocking time of 10,000 requests ---


def blocking_rows(path: Path) -> list[Row]:
    if not path.is_file():
        note = f"no {path.name} here; name its folder with --traces"
        return [Row(f"{TRACE}, blocking analysis", None, None, "s", "", None, note)]
    cost = RooflineCost(SETTINGS["hardware"], SETTINGS["model"])
    rows = []
    for scheduler in ("token-budget", "prefill-first"):
        trace = simulate(read_workload(path), scheduler, **SETTINGS)
        what = f"{TRACE}, {scheduler}"
        exact, exact_s = timed(trace, cost)
        estimated, estimated_s = timed(trace, None)
        pairs = f"{len(exact.who_blocked_whom):,} pairs among {trace.num_iterations:,} iterations"
        for name, seconds in (("cost model", exact_s), ("record alone", estimated_s)):
            rows.append(Row(
                f"{what}: blocking analysis, who blocked whom included, by the {name}", seconds,
                None, "s", f"<= {SPEED_TARGET_S:g} s", seconds <= SPEED_TARGET_S, pairs,
            ))  # fmt: skip
        rows += [
            residual_row(f"{what}: {kind}", value) for kind, value in residuals(exact).items()
        ]
        off = abs(estimated.blocked_s / exact.blocked_s - 1)
        rows.append(Row(
            f"{what}: blocking of all requests by the record alone, beside the exact one",
            estimated.blocked_s, exact.blocked_s, "s", f"within {ESTIMATE_TARGET:.0%}",
            off <= ESTIMATE_TARGET, f"baseline {estimated.baseline}",
        ))  # fmt: skip
    return rows


def timed(trace, cost) -> tuple[BlockingAnalysis, float]:
    """The analysis with its table of pairs, and the median seconds of making it."""
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        analysis = BlockingAnalysis.of(trace, cost)
        len(analysis.who_blocked_whom)
        seconds.append(time.perf_counter() - began)
    return analysis, statistics.median(seconds)


def residuals(analysis: BlockingAnalysis) -> dict[str, float]:
    """What is left over, at worst, relative to what it should sum to."""
    rows, pairs = analysis.by_request, analysis.who_blocked_whom
    parts = rows.baseline_s + rows.blocked_s + rows.waiting_s
    by_blocked = pairs.groupby("blocked").seconds.sum().reindex(rows.request, fill_value=0.0)
    by_blocker = pairs.groupby("blocker").seconds.sum().reindex(rows.request, fill_value=0.0)
    return {
        "gaps of a request less baseline, blocking and waiting": worst(parts, rows.itl_s),
        "blocking of a request less the sum over its blockers": worst(by_blocked, rows.blocked_s),
        "blocking caused less the sum over the blocked": worst(by_blocker, rows.caused_s),
    }


def worst(found, wanted) -> float:
    found, wanted = np.asarray(found), np.asarray(wanted)
    there = wanted > 0
    return float(np.max(np.abs(found - wanted)[there] / wanted[there]))


def residual_row(what: str, value: float) -> Row:
    return Row(
        f"{what}, worst", value, None, "of it", f"<= {RESIDUAL_TARGET:g}", value <= RESIDUAL_TARGET
    )


# --- The live engine as a source, beside other sources ---


def live_rows(quick: bool) -> list[Row]:
    whats = [
        "live torch beside a cost fitted here a moment before",
        "live torch beside the bare model, timed without an engine",
        *(f"live torch beside the recorded profile {name}" for name in profiles()
          if name.endswith("-torch")),
    ]
    target = f"within {AGREEMENT_TARGET:.0%}"
    if quick:
        return [Row(f"{what}, median ratio", None, None, "", target, None, "left out by --quick")
                for what in whats]  # fmt: skip
    from coursekit.live.worker import build_engine

    engine = build_engine("torch", max_token_budget=1100, max_num_seqs=17, max_model_len=2048)
    fitted = fit_here(engine)
    live = PrefillDecodeAnalyzer.of(engine)
    prefill, decode = live.prefill_table(PROMPTS, CHUNKS), live.decode_table(CONTEXTS, BATCHES)
    rows = [agreement_row(whats[0], prefill, decode, PrefillDecodeAnalyzer.of(fitted))]
    rows.append(bare_row(whats[1], prefill, decode, LiveTorchSource(engine.executor.model)))
    for what in whats[2:]:
        name = what.rpartition(" ")[2]
        there, here = recorded_cost(name).profile.device, detect_device().label()
        note = "" if there == here else f"; recorded on {there}, this is {here}: not judged"
        recorded = PrefillDecodeAnalyzer.of(f"recorded:{name}")
        rows.append(agreement_row(what, prefill, decode, recorded, note))
    return rows


def fit_here(engine) -> CalibratedCost:
    from coursekit.cost.measure import measure_engine, scenes

    todo = scenes(1024, 16, 960, most_tokens=9000)
    return CalibratedCost.fit(measure_engine(engine, todo, rounds=2), "SmolLM2-135M", "here")


def agreement_row(what: str, prefill, decode, other: PrefillDecodeAnalyzer, note: str = "") -> Row:
    """Median of live time over the other's, over both tables; judged without a note."""
    asked = other.prefill_table(PROMPTS, CHUNKS), other.decode_table(CONTEXTS, BATCHES)
    ratios = [prefill.prefill_s / asked[0].prefill_s, decode.step_s / asked[1].step_s]
    ratios = np.concatenate(ratios)
    return ratio_row(what, ratios, not note, note)


def bare_row(what: str, prefill, decode, bare: LiveTorchSource) -> Row:
    whole, one = prefill[prefill.one_shot], decode[decode.batch_size == 1]
    ratios = [row.prefill_s / bare.prefill_s(row.prompt_length) for row in whole.itertuples()]
    ratios += [row.step_s / bare.decode_s(row.context_length) for row in one.itertuples()]
    return ratio_row(what, np.array(ratios), True, "; one shot and batch 1")


def ratio_row(what: str, ratios: np.ndarray, judged: bool, note: str) -> Row:
    middle = float(np.median(ratios))
    holds = abs(middle - 1) <= AGREEMENT_TARGET if judged else None
    return Row(
        f"{what}, median ratio", middle, 1.0, "times", f"within {AGREEMENT_TARGET:.0%}", holds,
        f"{len(ratios)} times, ratios {ratios.min():.2f} to {ratios.max():.2f}{note}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
