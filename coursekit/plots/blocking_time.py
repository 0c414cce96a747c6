"""Picture of who blocked whom: seconds by blocker and blocked request, runs side by side.

It reads `coursekit.analyzers.BlockingAnalysis` and computes nothing but sums of what it leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coursekit.analyzers.blocking_time import BlockingAnalysis

MOST = 5  # requests of each kind that have a row or a column of their own
DARK = 0.55  # share of the colour scale from which text on a cell is white


def who_blocked_whom(
    *analyses: BlockingAnalysis, names: Sequence[str] = ("before", "after")
) -> Figure:
    """One run, or two beside each other: a cell says for how long a prompt blocked a request.

    Columns are the requests that were blocked most over both runs, rows those that blocked them
    most, MOST of each; all others together have a row and a column without colour. Both runs
    share the colours. names: of the runs, above them. Raises ValueError without any run, or for
    more than two, or fewer names.
    """
    if not 1 <= len(analyses) <= 2 or len(names) < len(analyses):
        raise ValueError(
            f"give 1 or 2 analyses and a name for each, got {len(analyses)} and {len(names)} names"
        )
    blocked = _most(analyses, "blocked")
    blockers = _most(analyses, "blocker", blocked)
    grids = [_grid(analysis, blockers, blocked) for analysis in analyses]
    figure = style.new_figure(10 if len(analyses) == 2 else 7.5, 5.8)
    axes = np.atleast_1d(figure.subplots(1, len(analyses), sharey=True))
    own = [grid[: len(blockers), : len(blocked)] for grid in grids]
    most = max((float(each.max(initial=0.0)) for each in own), default=0.0)
    for ax, grid, analysis, name in zip(axes, grids, analyses, names):
        _draw(ax, grid, len(blockers), len(blocked), most)
        _name_cells(ax, blockers, blocked, analyses)
        shown = name if len(analyses) == 2 else "blocking"
        ax.set_title(
            f"{shown}: {style.format_seconds(analysis.blocked_s)} in all",
            fontsize=style.LABEL_SIZE, loc="left",
        )  # fmt: skip
    axes[0].set_ylabel("blocker: request whose prompt ran", fontsize=style.LABEL_SIZE)
    figure.suptitle(headline(*analyses), fontsize=style.TITLE_SIZE, fontweight="bold")
    labels = dict.fromkeys(analysis.label for analysis in analyses)
    style.label_provenance(figure, " · ".join(labels))
    return style.describe(figure, _in_words(analyses, names))


def headline(*analyses: BlockingAnalysis) -> str:
    """What one run, or the change from one to another, comes to."""
    first, last = analyses[0], analyses[-1]
    seconds = style.format_seconds
    if not first.num_gaps or not last.num_gaps:
        return "No request got a second token"
    if len(analyses) == 1:
        return f"Worst blocking in one gap {seconds(first.worst_s)}"
    said = f"Worst blocking in one gap {seconds(first.worst_s)} → {seconds(last.worst_s)}"
    if not first.worst_s or not last.worst_s:
        return said
    factor = first.worst_s / last.worst_s
    if abs(factor - 1) < 0.01:
        return f"{said}: the same"
    word = "smaller" if factor > 1 else "larger"
    return f"{said}: {style.format_factor(max(factor, 1 / factor))} times {word}"


def _most(analyses, column: str, blocked: list[int] | None = None) -> list[int]:
    """Requests with most seconds as `column` of the pairs, at most MOST, in their order.

    blocked: only pairs with these are counted.
    """
    total: dict[int, float] = {}
    for analysis in analyses:
        pairs = analysis.who_blocked_whom
        if blocked is not None:
            pairs = pairs[pairs["blocked"].isin(blocked)]
        for request, seconds in pairs.groupby(column)["seconds"].sum().items():
            total[request] = total.get(request, 0.0) + seconds
    return sorted(sorted(total, key=total.get, reverse=True)[:MOST])


def _grid(analysis: BlockingAnalysis, blockers: list[int], blocked: list[int]) -> np.ndarray:
    """Seconds, (num_blockers + 1, num_blocked + 1): the last row and column are all others."""
    pairs = analysis.who_blocked_whom
    places = [
        pairs[column].map({request: place for place, request in enumerate(chosen)})
        .fillna(len(chosen)).to_numpy("i8")
        for column, chosen in (("blocker", blockers), ("blocked", blocked))
    ]  # fmt: skip
    shape = len(blockers) + 1, len(blocked) + 1
    flat = np.bincount(places[0] * shape[1] + places[1], pairs["seconds"], shape[0] * shape[1])
    return flat.reshape(shape)


def _draw(ax: Axes, grid: np.ndarray, num_rows: int, num_columns: int, most: float) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colors = LinearSegmentedColormap.from_list("blocking", [style.PAPER, style.PREFILL, "#5E2A00"])
    shown = np.full(grid.shape, np.nan)
    shown[:num_rows, :num_columns] = grid[:num_rows, :num_columns]
    ax.imshow(
        np.ma.masked_invalid(shown), cmap=colors, vmin=0, vmax=most or 1, aspect="auto", gid="cells"
    )
    for (row, column), seconds in np.ndenumerate(grid):
        inside = row < num_rows and column < num_columns
        dark = inside and seconds > DARK * most
        ax.text(
            column, row, _short(seconds), ha="center", va="center", fontsize=style.PROVENANCE_SIZE,
            color=style.PAPER if dark else style.TEXT if inside else style.MUTED,
        )  # fmt: skip


def _name_cells(ax: Axes, blockers: list[int], blocked: list[int], analyses) -> None:
    prompts = analyses[0].by_request.set_index("request")["num_prompt_tokens"]
    rows = [f"{request} ({style.format_count(prompts[request])})" for request in blockers]
    ax.set_yticks(range(len(blockers) + 1), [*rows, "others"], fontsize=style.PROVENANCE_SIZE)
    ax.set_xticks(
        range(len(blocked) + 1), [*map(str, blocked), "others"], fontsize=style.PROVENANCE_SIZE
    )
    ax.set_xlabel("blocked request", fontsize=style.LABEL_SIZE)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    edge = {"color": style.PAPER, "linewidth": 3}
    for place in range(len(blockers) + 1):
        ax.axhline(place - 0.5, **edge)
    for place in range(len(blocked) + 1):
        ax.axvline(place - 0.5, **edge)
    ax.axhline(len(blockers) - 0.5, color=style.MUTED, linewidth=1)
    ax.axvline(len(blocked) - 0.5, color=style.MUTED, linewidth=1)


def _short(seconds: float) -> str:
    """A cell's text: two digits, a dot for nothing."""
    if not seconds:
        return "·"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit * 0.995:
            return f"{float(f'{seconds * factor:.2g}'):g} {unit}"
    return f"{float(f'{seconds:.2g}'):,.15g} s"


def _in_words(analyses, names: Sequence[str]) -> str:
    said = ["Table of who blocked whom, seconds by blocking and blocked request."]
    for analysis, name in zip(analyses, names):
        said.append(f"{name[0].upper()}{name[1:]}: {analysis.findings()}")
    return f"{' '.join(said)} {headline(*analyses)}."
