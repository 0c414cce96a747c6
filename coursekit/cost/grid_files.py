"""Kernel times as a profiler measured them on a device, read from a folder of CSV files.

    attention.csv     prefill_chunk, kv_prefill, n_decode, kv_decode, time_us
    dense.csv         layer, tokens, time_us
    per_sequence.csv  layer, sequences, time_us
    profile_meta.yaml which device, model and software (or meta.yaml)

The format of LLMServingSim's profiler (github.com/casys-kaist/LLMServingSim, docs/profiler).
A row is one call of one operator, the sum of its kernels' times on the device: nothing of the
host is in it. The profiled model has one layer. In attention.csv a batch is one chunk of
`prefill_chunk` tokens with `kv_prefill` before it, and `n_decode` requests of one token with
`kv_decode` before it *each*; 0 where there is no chunk, or are no decodes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from coursekit.cost.grid import Grid

FILES = ("attention.csv", "dense.csv", "per_sequence.csv")
META = ("profile_meta.yaml", "meta.yaml")
_AXES = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"]
MICRO = 1e-6


@dataclass(frozen=True, slots=True)
class KernelGrids:
    """Seconds of one call of each operator.

    prefill: over (chunk, its context); decode: over (decodes, context of each); mixed: over
    (chunk, its context, decodes, context of each). dense: operator -> over (tokens,);
    per_sequence: operator -> over (sequences,). about: what the profiler says of itself.
    """

    prefill: Grid
    decode: Grid
    mixed: Grid
    dense: dict[str, Grid]
    per_sequence: dict[str, Grid]
    about: dict[str, str]

    @property
    def device(self) -> str:
        """Its name, or "unknown device"."""
        return self.about.get("gpu") or self.about.get("hardware") or "unknown device"

    @property
    def date(self) -> str:
        """Day of the measurement, or "undated"."""
        return self.about.get("profiled_at", "undated")[:10]


def read_grids(folder: str | Path) -> KernelGrids:
    """The grids in `folder`, whatever points they were measured at.

    Raises FileNotFoundError naming the missing file, and ValueError naming file, column and row
    for a table that lacks a column or a kind of batch, or holds a value out of range.
    """
    folder = Path(folder)
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing; a profile has {', '.join(FILES)}")
    attention = _table(folder / "attention.csv", _AXES)
    chunks, decodes = attention["prefill_chunk"] > 0, attention["n_decode"] > 0
    where = folder / "attention.csv"
    return KernelGrids(
        prefill=_grid(attention[chunks & ~decodes], _AXES[:2], where),
        decode=_grid(attention[~chunks & decodes], _AXES[2:], where),
        mixed=_grid(attention[chunks & decodes], _AXES, where),
        dense=_by_layer(folder / "dense.csv", "tokens"),
        per_sequence=_by_layer(folder / "per_sequence.csv", "sequences"),
        about=_about(folder),
    )


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    table = pd.read_csv(path)
    if missing := [name for name in [*columns, "time_us"] if name not in table]:
        raise ValueError(f"{path} lacks the column {missing[0]!r}; it has {', '.join(table)}")
    lowest = {name: 0 for name in columns if name != "layer"} | {"time_us": 1e-9}
    for name, least in lowest.items():
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise ValueError(f"{path}: {name} must hold numbers, it holds {table[name].dtype}")
        bad = np.flatnonzero(~((table[name] >= least) & (table[name] < np.inf)))
        if len(bad):
            must = "> 0" if least else ">= 0"
            raise ValueError(
                f"{path}: {name} must be finite and {must}, got {table[name][bad[0]]} in row "
                f"{bad[0]}; measure it again"
            )
    return table


def _by_layer(path: Path, axis: str) -> dict[str, Grid]:
    table = _table(path, ["layer", axis])
    return {str(name): _grid(rows, [axis], path) for name, rows in table.groupby("layer")}


def _grid(rows: pd.DataFrame, axes: list[str], path: Path) -> Grid:
    """A grid of the rows, in seconds."""
    if rows.empty:
        raise ValueError(f"{path} has no row with {' and '.join(axes)} alone; measure some")
    return Grid(rows[axes].to_numpy(), MICRO * rows["time_us"].to_numpy())


def _about(folder: Path) -> dict[str, str]:
    """Top-level scalars of the profiler's YAML; none if it is not there."""
    for name in META:
        if (folder / name).is_file():
            lines = re.findall(r"^(\w+):[ \t]+(.+)$", (folder / name).read_text(), re.MULTILINE)
            return {key: value.strip().strip("'\"") for key, value in lines}
    return {}
