"""How near the simulator comes to engines that really ran.

    python benchmarks/fidelity.py [--part a|b] [--reference FOLDER] [--prompts FILE]
                                  [--pictures FOLDER]

a: a vLLM on a GPU that somebody else recorded, from kernels measured one by one (no part of the
repository: `--reference` names the folder; ../shared/reference/ is where it is looked for).
Requests of one conversation begin alike, and the recorded engine computed what they share once;
the record holds no prompts, so `--prompts` names the file that its meta.json names. It is
looked for in the folder and in ../data/, and only taken if its SHA-256 is the recorded one.
b: vLLM on this machine: a cost fitted to one workload predicts three others, run for real.
Each part keeps its own results, so running one leaves the other's as they were.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from record import Row, publish

from coursekit.analyzers.fidelity import Compared, compare, predicted_metrics
from coursekit.analyzers.recorded_run import RecordedRun, read_recorded_run
from coursekit.analyzers.rerun import EngineSettings, rerun_recorded
from coursekit.cost.grid_files import KernelGrids, read_grids

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT.parent / "shared" / "reference" / "vllm-rtx4090-llama-3.1-8b"
DATA = ROOT.parent / "data"
LIMIT, PUBLISHED = 0.02, 0.009  # of each error; the largest of the best published simulator
MORE_BLOCKS = 3_400  # what memory alone would suggest: activations and CUDA's context forgotten
WHATS = [f"{name} {part}" for name in ("TTFT", "TPOT", "latency")
         for part in ("mean", "P50", "P90", "P95", "P99")]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("a", "b"), help="only this one")
    parser.add_argument("--reference", type=Path, default=REFERENCE)
    parser.add_argument("--prompts", type=Path, help="JSONL with the recorded requests' token ids")
    parser.add_argument("--pictures", type=Path, help="write the predicted and measured CDFs here")
    options = parser.parse_args()
    command = "python benchmarks/fidelity.py --part"
    if options.part != "b":
        rows = recorded_rows(options.reference, options.prompts, options.pictures)
        publish("fidelity_recorded", f"{command} a", rows)
    if options.part != "a":
        from fidelity_live import live_rows

        publish("fidelity_live", f"{command} b", live_rows(options.pictures))


def recorded_rows(folder: Path, prompts: Path | None, pictures: Path | None) -> list[Row]:
    """The 15 comparisons, the largest of their errors, and that error without each physics."""
    target = f"within {LIMIT:.0%}"
    if not (folder / "meta.json").is_file():
        note = "the recorded run is not here; name its folder with --reference"
        return [Row(what, None, None, "s", target, None, note) for what in WHATS]
    run, grids = read_recorded_run(folder), read_grids(folder)
    run = read_recorded_run(folder, find_prompts(folder, run, prompts))
    settings = EngineSettings.of(run.meta)
    trace = rerun_recorded(run, grids, settings)
    if pictures is not None:
        from coursekit.plots.fidelity import cdfs

        picture = cdfs(run.metrics(), predicted_metrics(trace), run.label, trace.label)
        pictures.mkdir(parents=True, exist_ok=True)
        picture.savefig(pictures / "fidelity_recorded.png")
    found = compare(predicted_metrics(trace), run.metrics())
    note = "" if run.prompts else "prompts unknown: what conversations share is computed anew"
    rows = [
        Row(f"{one.metric} {one.statistic}", one.predicted_s, one.measured_s, "s", target,
            abs(one.error) <= LIMIT, f"{one.error:+.2%}; {note}".rstrip("; "))
        for one in found
    ]  # fmt: skip
    return rows + [largest_row(found), *ablation_rows(run, grids, settings)]


def find_prompts(folder: Path, run: RecordedRun, given: Path | None) -> Path | None:
    """Where the run's prompts are, if they are anywhere."""
    name = Path(run.meta["dataset_path"]).name
    places = [given] if given is not None else [folder / name, DATA / name]
    return next((place for place in places if given is not None or place.is_file()), None)


def largest_row(found: list[Compared]) -> Row:
    ours = 100 * max(abs(one.error) for one in found)
    published = 100 * PUBLISHED
    return Row(
        "largest of the 15 errors, beside the best published simulator's", ours, published, "%",
        f"<= {published:g}%", ours <= published, "LLMServingSim, on the same run",
    )  # fmt: skip


def ablation_rows(
    run: RecordedRun, grids: KernelGrids, settings: EngineSettings
) -> Iterator[Row]:
    """The largest error, and the mean of the 15, if one thing is left out or set wrong."""
    without = {
        f"{MORE_BLOCKS:,} KV blocks instead of {settings.num_blocks:,}":
            (run, replace(settings, num_blocks=MORE_BLOCKS), True),
        "no prefix caching": (run, replace(settings, enable_prefix_caching=False), True),
        "nothing shared between requests": (replace(run, prompts=None), settings, True),
        "no warm-up": (run, settings, False),
        "decisions not an iteration ahead":
            (run, replace(settings, async_scheduling=False), True),
        "the KV block that vLLM keeps counted in":
            (run, replace(settings, num_blocks=settings.num_blocks + 1), True),
        "no padding to CUDA graphs": (run, replace(settings, capture_sizes=()), True),
    }  # fmt: skip
    for what, (of, set_to, warm_up) in without.items():
        predicted = predicted_metrics(rerun_recorded(of, grids, set_to, warm_up))
        errors = [one.error for one in compare(predicted, run.metrics())]
        worst, mean = np.max(np.abs(errors)), np.mean(np.abs(errors))
        yield Row(
            f"left out: {what}; largest of the 15 errors", 100 * worst, None, "%", "", True,
            f"mean of the 15 {mean:.2%}",
        )  # fmt: skip


if __name__ == "__main__":
    main()
