"""An optimizer's answer: the objective over the size, what the SLO rules out, and the Pareto front.

It draws a `coursekit.optimizers.answer.Answer` and decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coursekit.optimizers.answer import Answer
from coursekit.optimizers.explain import say_knob
from coursekit.optimizers.objective import BLOCKING, OBJECTIVES, UNITS, say_column
from coursekit.optimizers.pareto import pareto_front
from coursekit.plots import style
from coursekit.plots.boxes import path_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = {
    "itl": {"color": style.DECODE, "marker": style.DECODE_MARKER},
    "ttft": {"color": style.PREFILL, "marker": style.PREFILL_MARKER},
    "max": {"color": style.ACCENT, "marker": "D"},
}
_ON_PAPER = {"boxstyle": "round,pad=0.1", "facecolor": style.PAPER, "edgecolor": "none"}


def chunk_size_answer(answer: Answer) -> Figure:
    """The objective and the limits over the size, feasible sizes shaded, and the Pareto fronts.

    The chosen size is ringed; without one the nearest is. A live answer has its 95% intervals,
    and hollow points where the engine was not run.
    """
    costs = _costs(answer)
    figure = style.new_figure(10, 9.2 if costs else 6)
    grid = figure.add_gridspec(
        3 if costs else 2, max(1, len(costs)), height_ratios=(1.2, 1, 1.35)[: 3 if costs else 2]
    )
    top = figure.add_subplot(grid[0, :])
    middle = figure.add_subplot(grid[1, :], sharex=top)
    _draw_objective(top, answer)
    _draw_limits(middle, answer)
    for ax in (top, middle):
        _draw_sizes(ax, answer)
    for place, column in enumerate(costs):
        _draw_front(figure.add_subplot(grid[2, place]), answer, column, bool(place))
    top.tick_params(labelbottom=False)
    figure.suptitle(
        caption(answer), fontsize=style.TITLE_SIZE, fontweight="bold", x=0.012, ha="left"
    )
    style.label_provenance(figure, answer.label)
    return style.describe(figure, describe_answer(answer))


def caption(answer: Answer) -> str:
    """The answer in a line."""
    if answer.chosen is None:
        worst = max(answer.nearest.misses, key=lambda limit: limit.ratio)
        return (
            f"No {say_knob(answer)} keeps the SLO; {answer.nearest.size:,} comes nearest, "
            f"{style.format_factor(worst.ratio)} times {worst.name}"
        )
    text = f"{say_knob(answer).capitalize()} {answer.chosen:,} gives the most {answer.objective}"
    return f"{text}; {answer.binding.name} binds" if answer.binding else f"{text}; no limit binds"


def describe_answer(answer: Answer) -> str:
    """The picture in words."""
    columns = answer.slo.limits
    rows = "; ".join(
        f"{size:,}: {style.format_number(row['value'])}, "
        + ", ".join(f"{say_column(c)} {style.format_seconds(row[c])}" for c in columns)
        + (", keeps the SLO" if row["feasible"] else ", misses the SLO")
        + (", on the Pareto front" if row["pareto"] else "")
        for size, row in answer.table.iterrows()
        if row["value"] == row["value"]
    )
    unit = UNITS[answer.objective]
    return (
        f"{answer.objective.capitalize()} in {unit}, and the SLO's limits, over the "
        f"{say_knob(answer)}. {answer.explain()} {rows}."
    )


def _costs(answer: Answer) -> list[str]:
    """What throughput is set against in the fronts."""
    known = [column for column in ("itl_p99_s", "ttft_p99_s") if column in answer.table]
    return known or [column for column in (BLOCKING,) if column in answer.table]


def _marked(answer: Answer) -> int:
    return answer.chosen if answer.chosen is not None else answer.nearest.size


def _draw_objective(ax: Axes, answer: Answer) -> None:
    table = answer.table
    style.dress_axes(ax, "", "", f"{answer.objective}, {UNITS[answer.objective]}")
    ax.title.set_fontsize(style.LABEL_SIZE)
    look = {"color": style.TEXT, "linewidth": 2}
    ax.plot(table.index, table["value"], **look, gid="objective")
    filled = table["num_runs"] > 0 if "num_runs" in table else np.ones(len(table), bool)
    points = {"color": style.TEXT, "linestyle": "none", "marker": "o", "markersize": 8}
    ax.plot(table.index[filled], table["value"][filled], **points)
    if not filled.all():
        ax.plot(
            table.index[~filled], table["value"][~filled], **points,
            markerfacecolor=style.PAPER, label="not run: foretold",
        )  # fmt: skip
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False,
                  fontsize=style.NOTE_SIZE, borderaxespad=0.1)  # fmt: skip
    if "ci_low" in table:
        ax.vlines(table.index, table["ci_low"], table["ci_high"], **look, gid="interval")
    ax.set_ylim(0, 1.3 * float(table["value"].max()) or 1)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    size = _marked(answer)
    ax.plot(
        [size], [table["value"][size]], linestyle="none", marker="o", markersize=20,
        markerfacecolor="none", markeredgecolor=style.TEXT, markeredgewidth=2, gid="ring",
    )  # fmt: skip
    word = "chosen" if answer.chosen is not None else "nearest"
    ax.text(
        size, 0.04, f"{word}: {size:,}", transform=ax.get_xaxis_transform(), ha="center",
        va="bottom", fontsize=style.NOTE_SIZE, fontweight="bold", bbox=_ON_PAPER, gid="marked",
    )  # fmt: skip


def _draw_limits(ax: Axes, answer: Answer) -> None:
    """Each limit's value as a share of it, on a log axis; above 1 it is missed."""
    table = answer.table
    style.dress_axes(ax, "", "", "limits: value / most allowed")
    ax.title.set_fontsize(style.LABEL_SIZE)
    lowest, highest = 1.0, 1.0
    for column, limit_s in answer.slo.limits.items():
        ratios = np.maximum(table[column].to_numpy(float) / limit_s, 1e-3)
        name = say_column(column)
        binds = answer.binding is not None and name == answer.binding.name
        ax.plot(
            table.index, ratios, linewidth=3 if binds else 2, markersize=8, gid=column,
            label=f"{name} ≤ {style.format_seconds(limit_s)}{' (binds)' if binds else ''}",
            **_LOOKS[column.split("_")[0]],
        )  # fmt: skip
        finite = ratios[np.isfinite(ratios)]
        lowest, highest = min(lowest, *finite), max(highest, *finite)
    ax.axhline(1, color=style.TEXT, linestyle="--", linewidth=1.5, gid="limit")
    ax.set_yscale("log")
    ax.set_ylim(lowest / 1.6, highest * 1.6)
    _tick(ax.yaxis, lowest / 1.6, highest * 1.6, "{:g}".format)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False,
              fontsize=style.NOTE_SIZE, borderaxespad=0.1)  # fmt: skip


def _draw_sizes(ax: Axes, answer: Answer) -> None:
    """The common axis: sizes on a log scale, the feasible ones shaded, the marked one lined."""
    from matplotlib.patches import PathPatch

    sizes = answer.table.index.to_numpy(float)
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] / 1.4, sizes[-1] * 1.4)
    ticks: list[float] = []
    for size in (_marked(answer), sizes[-1], *sizes):  # these two first: their names matter most
        if all(max(size / other, other / size) > 1.4 for other in ticks):
            ticks.append(size)
    ax.set_xticks(ticks, [f"{size:,.0f}" for size in ticks])
    ax.minorticks_off()
    ax.set_xlabel(_size_label(answer) if ax.get_subplotspec().rowspan.start else "",
                  fontsize=style.LABEL_SIZE)  # fmt: skip
    ax.axvline(_marked(answer), color=style.TEXT, linewidth=2, zorder=0.9, gid="chosen")
    feasible = answer.table["feasible"].to_numpy(bool)
    if not feasible.any():
        return
    middles = np.sqrt(sizes[1:] * sizes[:-1])
    edges = np.concatenate(([sizes[0] / 1.4], middles, [sizes[-1] * 1.4]))
    change = np.diff(feasible.astype("i8"), prepend=0, append=0)
    left, right = edges[change == 1], edges[change == -1]
    ax.add_patch(
        PathPatch(
            path_of(left, right, np.zeros(len(left)), np.ones(len(left))), gid="feasible",
            transform=ax.get_xaxis_transform(), facecolor=style.ACCENT, alpha=0.14,
            edgecolor=style.ACCENT, hatch="..", linewidth=1.2, zorder=0.6,
        )
    )  # fmt: skip
    if ax.get_subplotspec().rowspan.start == 0:
        ax.text(
            np.sqrt(left[0] * right[0]), 0.96, "keeps the SLO", ha="center", va="top",
            transform=ax.get_xaxis_transform(), fontsize=style.NOTE_SIZE, fontweight="bold",
            bbox=_ON_PAPER,
        )  # fmt: skip


def _size_label(answer: Answer) -> str:
    of = "all requests" if answer.knob == "token_budget" else "one prompt"
    return f"{say_knob(answer)} (tokens of {of} in one iteration)"


def _draw_front(ax: Axes, answer: Answer, column: str, is_second: bool) -> None:
    """A rate against one latency: points on the front of these two are filled and joined."""
    rate = OBJECTIVES["capacity"] if OBJECTIVES["capacity"] in answer.table else "tokens_per_s"
    table = answer.table[answer.table["value"].notna()]
    cost, gain = table[column].to_numpy(float), table[rate].to_numpy(float)
    front = pareto_front(np.column_stack((gain, cost)), (True, False))
    look = _LOOKS[column.split("_")[0]]
    name = say_column(column)
    what = "capacity, requests/s" if rate != "tokens_per_s" else "tokens per second"
    style.dress_axes(ax, name, "" if is_second else what)
    ax.set_title(f"Pareto front against {name}", fontsize=style.LABEL_SIZE, loc="left")
    order = np.flatnonzero(front)[np.argsort(cost[front])]
    ax.step(cost[order], gain[order], where="post", color=look["color"], linewidth=2, gid="front")
    points = {"linestyle": "none", "markersize": 9, **look}
    ax.plot(cost[front], gain[front], **points, gid="on front")
    ax.plot(cost[~front], gain[~front], **points, markerfacecolor=style.PAPER, gid="beaten")
    ax.set_xscale("log")
    low, high = cost.min() / 1.7, cost.max() * 1.9
    ax.set_xlim(low, high)
    _tick(ax.xaxis, low, high, lambda s: f"{s:g} s" if s >= 1 else f"{s * 1e3:g} ms")
    span = gain.max() - gain.min() or gain.max() or 1.0
    ax.set_ylim(gain.min() - 0.15 * span, gain.max() + 0.22 * span)
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    _name_points(ax, table.index.to_numpy(), cost, gain, _marked(answer))


def _tick(axis, low: float, high: float, name) -> None:
    """A few round ticks on a log axis: 1, 2 and 5 of each decade, or the decades alone."""
    powers = range(-6, 7)
    rounds = [m * 10.0**power for power in powers for m in (1, 2, 5)]
    ticks = [tick for tick in rounds if low <= tick <= high]
    if len(ticks) > 4:
        ticks = [10.0**power for power in powers if low <= 10.0**power <= high]
    axis.set_ticks(ticks, [name(tick) for tick in ticks])
    axis.set_ticks([], minor=True)


def _name_points(ax: Axes, sizes, cost, gain, marked: int) -> None:
    """The sizes beside their points, as far as they don't run into each other."""
    height, taken = 0.09, []
    (x_low, x_high), (y_low, y_high) = np.log(ax.get_xlim()), ax.get_ylim()
    places = np.column_stack((
        (np.log(cost) - x_low) / (x_high - x_low), (gain - y_low) / (y_high - y_low)
    ))  # fmt: skip
    first = [k for k, size in enumerate(sizes) if size == marked]
    for k in [*first, *(k for k in range(len(sizes)) if k not in first)]:
        if any(abs(places[k] - other)[0] < 0.13 and abs(places[k] - other)[1] < height
               for other in taken):  # fmt: skip
            continue
        taken.append(places[k])
        ax.annotate(
            f"{sizes[k]:,}", (cost[k], gain[k]), (0, 12 if sizes[k] == marked else 8),
            textcoords="offset points", ha="center", fontsize=style.NOTE_SIZE,
            fontweight="bold" if sizes[k] == marked else "normal",
        )  # fmt: skip
    at = first[0]
    ax.plot(
        [cost[at]], [gain[at]], linestyle="none", marker="o", markersize=18, gid="ring",
        markerfacecolor="none", markeredgecolor=style.TEXT, markeredgewidth=2,
    )  # fmt: skip
