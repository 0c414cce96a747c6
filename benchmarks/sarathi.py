"""Sarathi-Serve's experiments, simulated, beside what the paper states.

    python benchmarks/sarathi.py [--dask ADDRESS] [--openchat-lengths CSV] [--picture PNG]

Settings and their sources are in coursekit/experiments/sarathi.py. The cost model was fitted to
times of single iterations (coursekit/cost/roofline.py, "sarathi-serving"), never to a capacity
or to the ablation. With a CSV of lengths (num_prefill_tokens, num_decode_tokens) only the gains
that the paper states are found again: the authors' own openchat lengths are in the repository
of the artifact, branch niyama_asplos2026, data/processed_traces.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from record import Row, publish

from coursekit.experiments import sarathi, sarathi_prefills
from coursekit.experiments.sarathi import DEPLOYMENTS, SCHEDULERS, SLOS, WORKLOADS, Point
from coursekit.optimizers.sweeps import open_executor, sweep

COMMAND = "python benchmarks/sarathi.py"
WALL_TARGET_S = 120.0
# (model, SLO, beside whom) -> gain that the text states. Which workload is not said in the
# sources that we have; openchat is taken.
STATED = {
    ("mistral-7b", "strict", "vllm"): 3.5,
    ("yi-34b", "strict", "orca"): 4.0,
    ("yi-34b", "strict", "vllm"): 3.7,
    ("yi-34b", "relaxed", "vllm"): 1.65,
    ("llama-2-70b", "strict", "orca"): 6.3,
    ("llama-2-70b", "strict", "vllm"): 4.3,
    ("falcon-180b", "strict", "vllm"): 3.6,
    ("falcon-180b", "relaxed", "vllm"): 1.48,
}
GAIN_TARGET, GAIN_FACTOR = "same winner, within a factor of 1.5", 1.5
# Table 6: (workload, way) -> P50 TTFT, P99 TBT, seconds
ABLATION = {
    ("openchat", "mixed only"): (0.53, 0.68), ("arxiv", "mixed only"): (3.78, 1.38),
    ("openchat", "chunked only"): (1.04, 0.17), ("arxiv", "chunked only"): (5.38, 0.20),
    ("openchat", "both"): (0.76, 0.14), ("arxiv", "both"): (3.90, 0.17),
}  # fmt: skip
SCRIPT_BUDGET, TEXT_BUDGET = 512, 1024  # of the artifact's script, and of the paper's text
LESS = 0.75  # of the ablation's load, for the notes
UNEXPLAINED = {
    ("arxiv", "mixed only", "P99 TBT"): "not explained: theirs is less than a median prompt's "
    "prefill takes alone (about 1.5 s, their figure 2)",
    ("openchat", "mixed only", "P99 TBT"): "a fifth of it is the fitted lengths' longer tail",
}
# Figure 9: prompt -> time of chunks of 512, 1024, 2048 relative to one shot
OVERHEAD = {
    2047: (1.152, 1.175, 0.999), 4095: (1.189, 1.202, 1.024), 8191: (1.117, 1.109, 0.937),
    16383: (0.995, 0.961, 0.805),
}  # fmt: skip
SATURATED_PER_S = 4.0  # requests; both pipelines are far past their capacity


def main() -> None:
    began = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dask", metavar="ADDRESS", help="of a Dask scheduler")
    parser.add_argument("--openchat-lengths", type=Path, metavar="CSV",
                        help="lengths to draw from, in place of the fitted distribution")  # fmt: skip
    parser.add_argument("--picture", type=Path, metavar="PNG", help="draw the capacities")
    options = parser.parse_args()
    with open_executor(options.dask) as executor:
        rates, tp8, odd = find_rates(executor, options.openchat_lengths)
        rows = stated_rows(rates, tp8)
        if not options.openchat_lengths:
            rows += all_rows(rates, odd) + idle_rows(find_idle(executor))
            rows += ablation_rows() + overhead_rows()
    if options.picture:
        draw(rates).savefig(options.picture, dpi=144)
    wall = time.perf_counter() - began
    rows.append(
        Row("the whole command", wall, None, "s", f"<= {WALL_TARGET_S:.0f} s",
            wall <= WALL_TARGET_S, "its own processes, one per core")
    )  # fmt: skip
    command = f"{COMMAND} --openchat-lengths CSV" if options.openchat_lengths else COMMAND
    name = "sarathi-openchat-lengths" if options.openchat_lengths else "sarathi"
    publish(name, command, rows)


def one_capacity(item: tuple, file: Path | None):
    """The capacity of a point; with True beside it, of Falcon without its pipeline."""
    point, without_pipeline = item
    deployment = sarathi.FALCON_TP8 if without_pipeline else None
    lengths = file if point.workload == "openchat" else None
    return sarathi.capacity_of_point(point, file=lengths, deployment=deployment)


def find_rates(executor, file: Path | None) -> tuple[dict, dict, dict]:
    """Requests per second by point; of vLLM on Falcon without a pipeline by SLO; remarks."""
    items = [(point, False) for point in sarathi.points()]
    items += [(Point("falcon-180b", "openchat", slo, "vllm"), True) for slo in SLOS]
    outcomes = sweep(partial(one_capacity, file=file), items, executor, progress=True)
    failed = [f"{outcome.point}: {outcome.error}" for outcome in outcomes if outcome.error]
    if failed:
        sys.exit("\n".join(failed))
    rates = {o.point[0]: o.value.rate_per_s for o in outcomes if not o.point[1]}
    tp8 = {o.point[0].slo: o.value.rate_per_s for o in outcomes if o.point[1]}
    odd = {
        o.point[0]: str(o.value) for o in outcomes
        if o.value.status != "bracketed" or "though" in str(o.value)
    }  # fmt: skip
    return rates, tp8, odd


def stated_rows(rates: dict, tp8: dict) -> list[Row]:
    rows = []
    for (model, slo, other), stated in STATED.items():
        ours = gain(rates, model, "openchat", slo, other)
        note = f"openchat; {gain(rates, model, 'arxiv', slo, other):.2f} on arxiv"
        if DEPLOYMENTS[model].stages > 1:
            note += f"; {slo_note(model)}"
        rows.append(gain_row(f"{model}, {slo} SLO, Sarathi over {other}", ours, stated, note))
    mistral = gain(rates, "mistral-7b", "openchat", "strict", "vllm")
    rows.append(gain_row("abstract: Mistral-7B, up to", mistral, 2.6, "strict SLO, over vLLM"))
    best = {
        slo: rates[Point("falcon-180b", "openchat", slo, "sarathi")] / tp8[slo] for slo in SLOS
        if tp8[slo]
    }  # fmt: skip
    slo = max(best, key=best.get)
    rows.append(
        gain_row(
            "abstract: Falcon-180B with a pipeline, up to", best[slo], 5.6,
            f"our reading: openchat, {slo} SLO, over vLLM with each layer on all 8 devices "
            "(figure 8); which bars it compares is not in the sources that we have",
        )
    )  # fmt: skip
    return rows


def slo_note(model: str) -> str:
    """The paper's SLOs are 5 and 25 decode iterations of 32 requests with 4K context; ours?"""
    deployment = DEPLOYMENTS[model]
    ours_s = sum(cost.iteration_s(32, 32 * 4096, ()) for cost in sarathi.stage_costs(deployment))
    theirs_ms = deployment.slo_s["strict"] / 5 * 1e3
    return f"a decode iteration takes {theirs_ms:.0f} ms by their SLO, {ours_s * 1e3:.0f} ms here"


def gain(rates: dict, model: str, workload: str, slo: str, other: str) -> float:
    """Sarathi's capacity over another scheduler's; inf if that one has none."""
    ours, theirs = (rates[Point(model, workload, slo, name)] for name in ("sarathi", other))
    return ours / theirs if theirs else float("inf")


def gain_row(what: str, ours: float, stated: float, note: str) -> Row:
    holds = ours > 1 and 1 / GAIN_FACTOR <= ours / stated <= GAIN_FACTOR
    return Row(f"capacity gain, {what}", ours, stated, "x", GAIN_TARGET, holds, note)


def all_rows(rates: dict, odd: dict) -> list[Row]:
    """Every pair of bars, with the capacities in the note."""
    rows = []
    for model, deployment in DEPLOYMENTS.items():
        for workload in WORKLOADS:
            for slo, limit_s in deployment.slo_s.items():
                points = [Point(model, workload, slo, name) for name in SCHEDULERS]
                orca, vllm, sarathi_rate = (rates[point] for point in points)
                note = f"Orca {orca:.3g}, vLLM {vllm:.3g}, Sarathi {sarathi_rate:.3g} requests/s"
                remarks = [f"{point.scheduler}: {odd[point]}" for point in points if point in odd]
                rows.append(
                    Row(
                        f"{model}, {workload}, P99 TBT <= {limit_s:g} s and median scheduling "
                        "delay <= 2 s: Sarathi's capacity over vLLM's",
                        gain(rates, model, workload, slo, "vllm"), None, "x", "> 1",
                        sarathi_rate > max(orca, vllm), "; ".join([note, *remarks]),
                    )
                )  # fmt: skip
    return rows


def one_idle(point: Point) -> float:
    return sarathi.idle_share(point, SATURATED_PER_S)


def find_idle(executor) -> dict[Point, float]:
    """Idle share of the pipelines' stages, saturated, strict SLO's budget."""
    points = [p for p in sarathi.points() if DEPLOYMENTS[p.model].stages > 1 and p.slo == "strict"]
    outcomes = sweep(one_idle, points, executor)
    failed = [f"{outcome.point}: {outcome.error}" for outcome in outcomes if outcome.error]
    if failed:
        sys.exit("\n".join(failed))
    return {outcome.point: outcome.value for outcome in outcomes}


def idle_rows(idle: dict[Point, float]) -> list[Row]:
    rows = []
    for point, ours in idle.items():
        if point.scheduler == "sarathi":
            vllm, orca = (idle[point._replace(scheduler=name)] for name in ("vllm", "orca"))
            rows.append(
                Row(f"{point.model}, {point.workload}, saturated: stages idle, Sarathi beside vLLM",
                    ours * 100, vllm * 100, "%", "< vLLM", ours < vllm,
                    f"both ours; Orca, 4 requests a batch, {orca * 100:.3g}%")
            )  # fmt: skip
    return rows


def ablation_rows() -> list[Row]:
    rows = []
    for (workload, way), (ttft_s, tbt_s) in ABLATION.items():
        ours = sarathi_prefills.ablate(workload, way, SCRIPT_BUDGET)
        as_text = sarathi_prefills.ablate(workload, way, TEXT_BUDGET)
        relieved = sarathi_prefills.ablate(workload, way, SCRIPT_BUDGET, LESS)
        stated = (("P99 TBT", tbt_s, "tbt_p99_s"), ("P50 TTFT", ttft_s, "ttft_p50_s"))
        for what, theirs, field in stated:
            mine, at_text, at_less = (getattr(run, field) for run in (ours, as_text, relieved))
            notes = [f"{at_less:.3g} s at {LESS:g} of the load"]
            if way != "mixed only":
                notes.append(
                    f"budget {SCRIPT_BUDGET} as in the artifact's script; {at_text:.3g} s at "
                    f"{TEXT_BUDGET}, the text's"
                )
            if (workload, way, what) in UNEXPLAINED:
                notes.append(UNEXPLAINED[workload, way, what])
            rows.append(
                Row(f"ablation, Yi-34B, {workload}, {way}: {what}", mine, theirs, "s",
                    "within a factor of 1.25", 0.8 <= mine / theirs <= 1.25, "; ".join(notes))
            )  # fmt: skip
    return rows


def overhead_rows() -> list[Row]:
    rows = []
    for prompt, stated in OVERHEAD.items():
        for size, theirs in zip((512, 1024, 2048), stated, strict=True):
            ours = sarathi_prefills.chunking_overhead(prompt, size)
            rows.append(
                Row(f"prefill of {prompt:,} tokens in chunks of {size}, over one shot", ours,
                    theirs, "x", "within 10%", abs(ours / theirs - 1) <= 0.1,
                    overhead_note(size, theirs))
            )  # fmt: skip
    return rows


def overhead_note(size: int, theirs: float) -> str:
    """Why ours differs, found in the artifact's times; our linear layers have one rate."""
    if theirs < 0.99:
        return "their one shot was slow: 0.27 ms a token at 16,384, 0.19 at 4,096 (figure 2)"
    if size < 2048:
        return "their prefill takes 0.209 ms a token at 1,024 and 0.179 at 2,048 (figure 2)"
    return ""


def draw(rates: dict):
    from coursekit.plots.capacity import capacity_bars

    panels = {
        model: {
            f"{workload}\n{slo} SLO": [rates[Point(model, workload, slo, s)] for s in SCHEDULERS]
            for workload in WORKLOADS for slo in SLOS
        }
        for model in DEPLOYMENTS
    }  # fmt: skip
    stated = {
        (model, f"openchat\n{slo} SLO"): value
        for (model, slo, other), value in STATED.items() if other == "vllm"
    }  # fmt: skip
    names = ("Orca", "vLLM (2023)", "Sarathi-Serve")
    return capacity_bars(panels, names, stated, "simulated (A100, A40, roofline)")


if __name__ == "__main__":
    main()
