"""Controllers at work, side by side: the budget that each chose, and what its steps took.

Reads runs of `coursekit.analyzers.adaptive` and simulates nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coursekit.analyzers.adaptive import ControlledRun

MOST_RUNS = 5  # columns that can still be read


def control(
    runs: list[ControlledRun], itl_s: float, start_s: float = 0.0, end_s: float = np.inf
) -> Figure:
    """Above, the budget of each iteration with prompt tokens; below, how long each iteration took.

    itl_s: the limit that is drawn, seconds; start_s, end_s: what is shown of the runs. A step
    over the limit is marked. Raises ValueError for no run or more than MOST_RUNS, and for a
    window without iterations.
    """
    if not 1 <= len(runs) <= MOST_RUNS:
        raise ValueError(f"a picture needs 1..{MOST_RUNS} runs, got {len(runs)}: choose some")
    shown = [_shown(run, start_s, end_s) for run in runs]
    figure = style.new_figure(3.0 * len(runs) + 1.0, 6.2)
    axes = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    for column, (run, rows) in enumerate(zip(runs, shown, strict=True)):
        _draw_budgets(axes[0, column], run, rows)
        _draw_steps(axes[1, column], run, rows, itl_s)
        over = _num_over(run, rows, itl_s)
        note = f"{over} step{'s' * (over != 1)} over"
        style.dress_axes(axes[0, column], title=f"{run.name}\n{note}")
        style.dress_axes(axes[1, column], "seconds")
    axes[0, 0].set_ylabel("token budget", fontsize=style.LABEL_SIZE)
    axes[1, 0].set_ylabel("step, milliseconds", fontsize=style.LABEL_SIZE)
    axes[1, -1].annotate(
        f"limit {style.format_seconds(itl_s)}", (0.98, itl_s), xycoords=("axes fraction", "data"),
        xytext=(0, 5), textcoords="offset points", ha="right", fontsize=style.NOTE_SIZE,
        bbox={"facecolor": style.PAPER, "edgecolor": "none", "pad": 1},
    )  # fmt: skip
    _scale(axes)
    style.label_provenance(figure, " · ".join(dict.fromkeys(run.trace.label for run in runs)))
    return style.describe(figure, describe(runs, itl_s, start_s, end_s))


def describe(
    runs: list[ControlledRun], itl_s: float, start_s: float = 0.0, end_s: float = np.inf
) -> str:
    """The picture in words, with its numbers."""
    parts = []
    for run in runs:
        rows = _shown(run, start_s, end_s)
        filling = rows[run.trace.iterations["num_prefill_tokens"][rows] > 0]
        budgets = run.budgets[filling] if len(filling) else run.budgets[rows]
        worst_s = float(_durations_s(run)[rows].max())
        parts.append(
            f"{run.name}: budgets {budgets.min()} to {budgets.max()}, worst step "
            f"{style.format_seconds(worst_s)}, {_num_over(run, rows, itl_s)} of {len(rows)} over"
        )
    return f"Budget and step times against {style.format_seconds(itl_s)}. " + "; ".join(parts) + "."


def _shown(run: ControlledRun, start_s: float, end_s: float) -> np.ndarray:
    begun_s = run.trace.iterations["start_s"]
    rows = np.flatnonzero((begun_s >= start_s) & (begun_s < end_s))
    if not len(rows):
        raise ValueError(f"no iteration of {run.name} starts in {start_s}..{end_s} s: widen it")
    return rows


def _durations_s(run: ControlledRun) -> np.ndarray:
    return run.trace.iterations["end_s"] - run.trace.iterations["start_s"]


def _num_over(run: ControlledRun, rows: np.ndarray, itl_s: float) -> int:
    """Steps over the limit while anybody decoded: others keep nobody waiting."""
    waited_for = run.trace.iterations["num_decode_tokens"][rows] > 0
    return int((waited_for & (_durations_s(run)[rows] > itl_s)).sum())


def _draw_budgets(ax: Axes, run: ControlledRun, rows: np.ndarray) -> None:
    filling = rows[run.trace.iterations["num_prefill_tokens"][rows] > 0]
    ax.plot(
        run.trace.iterations["start_s"][filling], run.budgets[filling], style.PREFILL_MARKER,
        color=style.PREFILL, markersize=3,
    )  # fmt: skip


def _draw_steps(ax: Axes, run: ControlledRun, rows: np.ndarray, itl_s: float) -> None:
    at_s, took_s = run.trace.iterations["start_s"][rows], _durations_s(run)[rows]
    over = took_s > itl_s
    ax.plot(at_s[~over], took_s[~over], style.DECODE_MARKER, color=style.DECODE, markersize=2.5)
    ax.plot(at_s[over], took_s[over], "x", color=style.PREFILL, markersize=6, markeredgewidth=1.6)
    ax.axhline(itl_s, color=style.TEXT, linewidth=1.4, linestyle="--")


def _scale(axes: np.ndarray) -> None:
    """Budgets in powers of 2, milliseconds in 1, 2, 5."""
    from matplotlib.ticker import LogLocator, NullFormatter

    budgets, steps = axes[0, 0], axes[1, 0]
    budgets.set_yscale("log", base=2)
    budgets.yaxis.set_major_formatter(lambda value, _: style.format_count(value))
    steps.set_yscale("log")
    steps.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    steps.yaxis.set_major_formatter(lambda value, _: style.format_number(value * 1e3))
    steps.yaxis.set_minor_formatter(NullFormatter())
