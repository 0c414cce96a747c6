"""Each class under each policy: first tokens, and what its prompts cost those that decode.

Reads runs of `coursekit.analyzers.priority` and simulates nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coursekit.analyzers.priority import CLASSES, ClassRow, class_rows, findings
from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coursekit.analyzers.priority import PriorityRun

COLOURS = (style.MUTED, style.PREFILL, style.DECODE)
HATCHES = ("", style.PREFILL_HATCH, "..")
WIDTH = 0.26
# column of a row, what it is multiplied by, unit, title
PANELS = (
    ("ttft_p50_s", 1e3, "milliseconds", "TTFT, median"),
    ("ttft_p99_s", 1, "seconds", "TTFT, P99"),
    ("beside_p50_s", 1e3, "milliseconds", "step with only its prompts"),
)


def classes(runs: list[PriorityRun]) -> Figure:
    """TTFT of each class, median and P99, and the median iteration that carries its prompts alone.

    runs: those of `compare_policies`. Raises ValueError for none.
    """
    if not runs:
        raise ValueError("a picture needs at least 1 run, got 0: see compare_policies")
    rows = class_rows(runs)
    figure = style.new_figure(12.5, 5.0)
    axes = figure.subplots(1, 3)
    for ax, (column, scale, unit, title) in zip(axes, PANELS, strict=True):
        _draw_bars(ax, runs, rows, column, scale)
        style.dress_axes(ax, "priority class", unit, title)
        ax.grid(False, axis="x")
    labels = [f"{row.priority_class}\nn={row.n}" for row in rows[: len(CLASSES)]]
    for ax, names in zip(axes, (labels, labels, CLASSES), strict=True):
        ax.set_xticks(range(len(CLASSES)), names)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(runs),
        frameon=False, fontsize=style.NOTE_SIZE,
    )  # fmt: skip
    style.label_provenance(figure, " · ".join(dict.fromkeys(run.trace.label for run in runs)))
    return style.describe(figure, findings(runs))


def _draw_bars(
    ax: Axes, runs: list[PriorityRun], rows: list[ClassRow], column: str, scale: float
) -> None:
    places = np.arange(len(CLASSES))
    for k, run in enumerate(runs):
        values = [scale * getattr(row, column) for row in rows if row.policy == run.name]
        ax.bar(
            places + (k - (len(runs) - 1) / 2) * WIDTH, values, WIDTH * 0.9,
            color=COLOURS[k % 3], hatch=HATCHES[k % 3], hatchcolor=style.PAPER, label=run.name,
        )  # fmt: skip
