"""Token budgets against TTFT, ITL and throughput, with the budgets that keep an SLO shaded.

`tradeoff` is the picture; `Tradeoff` the same one, whose SLO and marked budget can be moved.
They draw a `coursekit.analyzers.tradeoff.Sweep` and simulate nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from coursekit.analyzers.tradeoff import Point, Sweep, Verdict, judge
from coursekit.plots import style
from coursekit.plots.boxes import path_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path


def tradeoff(
    sweep: Sweep, ttft_slo_s: float, itl_slo_s: float, token_budget: int | None = None
) -> Figure:
    """TTFT, ITL P99 and throughput of `sweep` over the budget, judged by an SLO.

    ttft_slo_s, itl_slo_s: most seconds of the P99s of TTFT and ITL; token_budget: one of the
    sweep's, to be marked. Raises ValueError for an SLO that is not > 0, a sweep without
    points, or a budget that is not in it.
    """
    picture = Tradeoff(sweep)
    picture.mark(ttft_slo_s, itl_slo_s, token_budget)
    return style.describe(picture.figure, picture.describe())


class Tradeoff:
    """The figure of one sweep at a time: `draw` shows a sweep, `mark` an SLO and a budget.

    All sweeps have the budgets of the first. Raises ValueError for a sweep without points.
    """

    def __init__(self, sweep: Sweep):
        if not sweep.points:
            raise ValueError("a sweep needs at least 1 point, got 0: sweep some token budgets")
        self.budgets = tuple(point.token_budget for point in sweep.points)
        self.figure, axes = _lay_out(self.budgets)
        self.ttft, self.itl, self.rate = axes
        self.headline = self.figure.text(
            0.012, 0.985, "", ha="left", va="top", fontsize=style.TITLE_SIZE,
            fontweight="bold", gid="headline",
        )  # fmt: skip
        self._curves = {name: _add_curve(ax, name) for ax, name in self._where()}
        self._titles = [ax.set_title("", **_TITLE) for ax in (self.ttft, self.itl)]
        self.rate.set_title("throughput, output tokens per second", **_TITLE)
        self._size = self.rate.text(
            0.5, -0.33, "", transform=self.rate.transAxes, ha="center", va="top",
            fontsize=style.LABEL_SIZE,
        )  # fmt: skip
        self._marks = [_Marks(ax, name) for ax, name in self._where() if name != "ttft_p50_s"]
        self._notes = [_add_note(self.ttft, "feasible"), _add_note(self.rate, "yours")]
        style.label_provenance(self.figure, sweep.label)
        (self._source,) = (text for text in self.figure.texts if text.get_gid() == "provenance")
        self.draw(sweep)

    @property
    def layers(self) -> tuple[list[Artist], list[Artist]]:
        """What `draw` changes, and what `mark` changes."""
        axes = [ax.yaxis for ax in (self.ttft, self.itl, self.rate)]
        shown = [*axes, *self._curves.values(), *self._titles, self._size, self._source]
        marked = [artist for marks in self._marks for artist in marks.artists]
        return shown, [*marked, *self._notes, self.headline]

    def draw(self, sweep: Sweep) -> None:
        """Show another sweep of the same budgets, ValueError for others; `mark` must follow."""
        budgets = tuple(point.token_budget for point in sweep.points)
        if budgets != self.budgets:
            raise ValueError(
                f"token budgets must be {self.budgets} as in the first sweep, got {budgets}: "
                "make another figure"
            )
        self.sweep = sweep
        for name, curve in self._curves.items():
            curve.set_data(budgets, _column(sweep, name))
        p50, p99 = _column(sweep, "ttft_p50_s"), _column(sweep, "ttft_p99_s")
        _scale_seconds(self.ttft, np.concatenate((p50, p99)))
        _scale_seconds(self.itl, _column(sweep, "itl_p99_s"))
        self.rate.set_ylim(0, 1.25 * max(_column(sweep, "output_tokens_per_s")))
        size = "chunk size (tokens of a prompt" if sweep.chunked else "token budget (tokens"
        self._size.set_text(f"{size} in one iteration)")
        requests, gaps = (style.format_count(n) for n in (sweep.num_requests, sweep.num_gaps))
        self._titles[0].set_text(f"TTFT of {requests} requests")
        self._titles[1].set_text(f"ITL P99 of {gaps} gaps between tokens")
        self._source.set_text(sweep.label)

    def mark(self, ttft_slo_s: float, itl_slo_s: float, token_budget: int | None) -> None:
        """Show an SLO, in seconds, the budgets that keep it, and one budget of the learner.

        Raises ValueError for an SLO that is not > 0, or a budget that was not swept.
        """
        if token_budget is not None and token_budget not in self.budgets:
            raise ValueError(
                f"token_budget must be one of {', '.join(map(str, self.budgets))}, got "
                f"{token_budget}: choose one of those that were swept"
            )
        self.verdict = judge(self.sweep.points, ttft_slo_s, itl_slo_s)
        self.slo_s, self.token_budget = (ttft_slo_s, itl_slo_s), token_budget
        for marks, limit_s in zip(self._marks, (ttft_slo_s, itl_slo_s, None)):
            marks.update(self.sweep, self.verdict, limit_s, token_budget)
        self.headline.set_text(_headline(self.verdict, self.sweep))
        self._place_notes()

    def explain(self) -> str:
        """Which sizes keep the SLO, what rules out the others, and how the marked one does."""
        text = explain_verdict(self.sweep, self.verdict, *self.slo_s)
        if self.token_budget is None:
            return text
        chosen = self.sweep.points[self.budgets.index(self.token_budget)]
        return f"{text} {explain_point(chosen, *self.slo_s)}"

    def describe(self) -> str:
        """The picture in words."""
        points = "; ".join(
            f"{style.format_count(point.token_budget)} tokens: {_say_point(point)}"
            for point in self.sweep.points
        )
        return (
            f"TTFT, ITL and throughput over the {_size(self.sweep)}, {self.sweep.label}, "
            f"{style.format_count(self.sweep.num_requests)} requests. {self.explain()} {points}."
        )

    def _where(self) -> list[tuple[Axes, str]]:
        names = ("ttft_p50_s", "ttft_p99_s", "itl_p99_s", "output_tokens_per_s")
        return list(zip((self.ttft, self.ttft, self.itl, self.rate), names))

    def _place_notes(self) -> None:
        feasible, yours = self._notes
        kept = self.verdict.feasible
        feasible.set_visible(bool(kept))
        if kept:
            feasible.set_text("keeps the SLO")
            feasible.set_x(np.sqrt(kept[0] * kept[-1]))
        yours.set_visible(self.token_budget is not None)
        if self.token_budget is not None:
            yours.set_text(f"yours: {style.format_count(self.token_budget)}")
            yours.set_x(self.token_budget)


class _Marks:
    """What an SLO and a chosen budget add to one axes."""

    def __init__(self, ax: Axes, name: str):
        from matplotlib.patches import PathPatch

        self.ax, self.name = ax, name
        look = {"linestyle": "none", "markersize": 10, "markeredgewidth": 2, **_LOOKS[name]}
        self.band = ax.add_patch(
            PathPatch(
                path_of([], [], [], []), transform=ax.get_xaxis_transform(), gid="feasible",
                facecolor=(*_ACCENT_RGB, 0.14), edgecolor=style.ACCENT, hatch="..",
                hatchcolor=(*_ACCENT_RGB, 0.5), linewidth=1.5, zorder=0.7,
            )
        )  # fmt: skip
        (self.limit,) = ax.plot([], [], color=style.TEXT, linestyle="--", linewidth=1.5)
        (self.kept,) = ax.plot([], [], **look, gid="kept")
        (self.missed,) = ax.plot([], [], **look, markerfacecolor=style.PAPER, gid="missed")
        self.chosen = ax.axvline(1, color=style.TEXT, linewidth=2.2, gid="chosen")
        (self.ring,) = ax.plot(
            [], [], linestyle="none", marker="o", markersize=20, markerfacecolor="none",
            markeredgecolor=style.TEXT, markeredgewidth=2, gid="ring",
        )  # fmt: skip
        self.note = ax.text(
            1.008, 0, "", transform=ax.get_yaxis_transform(), ha="left", va="center",
            fontsize=style.NOTE_SIZE, gid="limit",
        )  # fmt: skip
        self.artists = [
            self.band, self.chosen, self.limit, self.kept, self.missed, self.ring, self.note
        ]  # fmt: skip

    def update(
        self, sweep: Sweep, verdict: Verdict, limit_s: float | None, token_budget: int | None
    ) -> None:
        budgets, values = _column(sweep, "token_budget"), _column(sweep, self.name)
        self.band.set_path(_band(budgets, verdict.feasible))
        keeps = np.isin(budgets, verdict.feasible) if limit_s is None else values <= limit_s
        self.kept.set_data(budgets[keeps], values[keeps])
        self.missed.set_data(budgets[~keeps], values[~keeps])
        self.chosen.set_visible(token_budget is not None)
        self.ring.set_visible(token_budget is not None)
        if token_budget is not None:
            self.chosen.set_xdata([token_budget, token_budget])
            self.ring.set_data([token_budget], values[budgets == token_budget])
        if limit_s is not None:
            self._draw_limit(limit_s)

    def _draw_limit(self, limit_s: float) -> None:
        """The SLO as a line, or, where it lies beyond the axes, as an arrow that points there."""
        low, high = self.ax.get_ylim()
        self.limit.set_data(self.ax.get_xlim(), (limit_s, limit_s))
        self.limit.set_visible(low <= limit_s <= high)
        arrow = " ↑" if limit_s > high else " ↓" if limit_s < low else ""
        self.note.set_text(f"SLO{arrow}\n{style.format_seconds(limit_s)}")
        margin = (high / low) ** 0.12
        self.note.set_y(min(max(limit_s, low * margin), high / margin))


def explain_verdict(sweep: Sweep, verdict: Verdict, ttft_slo_s: float, itl_slo_s: float) -> str:
    """Which sizes keep the SLO and what rules out the others; or by how much the nearest misses."""
    total, size = len(sweep.points), _size(sweep)
    limits = (
        f"TTFT P99 (at most {style.format_seconds(ttft_slo_s)})",
        f"ITL P99 (at most {style.format_seconds(itl_slo_s)})",
    )
    if verdict.feasible:
        few = len(verdict.feasible)
        kept = f"{few} of {total} {size}s {'keeps' if few == 1 else 'keep'} both limits"
        text = f"{kept}: {_list(verdict.feasible)}."
    else:
        nearest = next(p for p in sweep.points if p.token_budget == verdict.nearest)
        by_ttft = verdict.binding == "TTFT P99"
        value_s = nearest.ttft_p99_s if by_ttft else nearest.itl_p99_s
        over_s = value_s - (ttft_slo_s if by_ttft else itl_slo_s)
        text = (
            f"No {size} keeps both limits. The nearest is {style.format_count(verdict.nearest)}: "
            f"its {verdict.binding} of {style.format_seconds(value_s)} is over by "
            f"{style.format_seconds(over_s)}, {style.format_number(verdict.worst)} times its limit."
        )
    ruled_out = [
        f"{limit} rules out {_list(budgets)}"
        for limit, budgets in zip(limits, (verdict.only_ttft, verdict.only_itl))
        if budgets
    ]
    if verdict.both:
        verb = "misses" if len(verdict.both) == 1 else "miss"
        ruled_out.append(f"{_list(verdict.both)} {verb} both")
    return " ".join([text, *(f"{part}." for part in ruled_out)])


def explain_point(point: Point, ttft_slo_s: float, itl_slo_s: float) -> str:
    """How one size does against the SLO, and which limit it comes closest to."""
    shares = {"TTFT P99": point.ttft_p99_s / ttft_slo_s, "ITL P99": point.itl_p99_s / itl_slo_s}
    closest = max(shares, key=shares.get)
    verb = "keeps the SLO" if shares[closest] <= 1 else "misses the SLO"
    percents = " and ".join(
        f"{name} is at {style.format_number(100 * share)}%" for name, share in shares.items()
    )
    return (
        f"Yours, {style.format_count(point.token_budget)} tokens, {verb}: {_say_point(point)}. "
        f"{percents} of its limit, so {closest} binds."
    )


_ON_PAPER = {"boxstyle": "round,pad=0.1", "facecolor": style.PAPER, "edgecolor": "none"}
_ACCENT_RGB = tuple(int(style.ACCENT[at : at + 2], 16) / 255 for at in (1, 3, 5))
_LOOKS = {
    "ttft_p50_s": {"color": style.PREFILL, "marker": "v"},
    "ttft_p99_s": {"color": style.PREFILL, "marker": style.PREFILL_MARKER},
    "itl_p99_s": {"color": style.DECODE, "marker": style.DECODE_MARKER},
    "output_tokens_per_s": {"color": style.ACCENT, "marker": "D"},
}
_TITLE = {"fontsize": style.LABEL_SIZE, "loc": "left", "y": 1.0, "pad": 5}
_LEFT, _WIDTH = 0.1, 0.805
_TICKS_S = [mantissa * 10.0**power for power in range(-5, 4) for mantissa in (1, 2, 5)]


def _lay_out(budgets: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """A figure with three axes, placed in inches once and for all, so that nothing shifts."""
    head, title, foot = 0.62, 0.36, 0.9
    heights = (1.75, 1.5, 0.95)
    height = head + sum(heights) + 2 * title + foot
    figure = style.new_figure(10, height)
    figure.set_layout_engine("none")
    axes, top = [], height - head
    for size in heights:
        axes.append(figure.add_axes((_LEFT, (top - size) / height, _WIDTH, size / height)))
        top -= size + title
    for ax in axes:
        style.dress_axes(ax)
        ax.set_xscale("log", base=2)
        ax.set_xlim(budgets[0] / 1.5, budgets[-1] * 1.5)
        ax.set_xticks(budgets, [style.format_count(budget) for budget in budgets])
        ax.minorticks_off()
        ax.tick_params(labelbottom=ax is axes[-1])
        ax.xaxis.set_label_coords(0.5, -0.35)
        ax.yaxis.set_label_coords(-0.1, 0.5)
    for ax in axes[:2]:
        ax.set_yscale("log")
    axes[2].yaxis.set_major_formatter(lambda value, _: style.format_count(value))
    axes[2].locator_params(axis="y", nbins=3)
    return figure, axes


def _add_curve(ax: Axes, name: str) -> Artist:
    is_p50 = name == "ttft_p50_s"
    label = {"ttft_p50_s": "P50", "ttft_p99_s": "P99"}.get(name, "_")
    look = _LOOKS[name] | {"linestyle": ":" if is_p50 else "-"}
    (curve,) = ax.plot([], [], linewidth=2, markersize=7, label=label, gid=name, **look)
    if label == "P99":
        ax.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False,
            fontsize=style.NOTE_SIZE, borderaxespad=0.1,
        )  # fmt: skip
    return curve


def _add_note(ax: Axes, gid: str) -> Artist:
    """A word inside the top or the bottom of the axes, at a place along its x axis."""
    at_top = gid == "feasible"
    return ax.text(
        1, 0.95 if at_top else 0.05, "", transform=ax.get_xaxis_transform(), ha="center",
        va="top" if at_top else "bottom", fontsize=style.NOTE_SIZE, fontweight="bold",
        bbox=_ON_PAPER, gid=gid,
    )  # fmt: skip


def _scale_seconds(ax: Axes, values: np.ndarray) -> None:
    """A log axis that holds the values with room around them, and a few round ticks."""
    low, high = values.min() / 2.2, values.max() * 2.2
    ax.set_ylim(low, high)
    inside = [tick for tick in _TICKS_S if low <= tick <= high]
    decades = [tick for tick in inside if f"{tick:e}".startswith("1.")]
    ticks = inside if len(inside) <= 5 else decades if len(decades) > 2 else inside[::2]
    labels = [f"{tick:g} s" if tick >= 1 else f"{tick * 1e3:g} ms" for tick in ticks]
    ax.set_yticks(ticks, labels)
    ax.minorticks_off()


def _band(budgets: np.ndarray, feasible: Sequence[int]) -> Path:
    """A box for each stretch of feasible budgets, half way to its neighbours on the log axis."""
    middles = np.sqrt(budgets[1:] * budgets[:-1])
    edges = np.concatenate(([budgets[0] / 1.5], middles, [budgets[-1] * 1.5]))
    change = np.diff(np.isin(budgets, feasible).astype("i8"), prepend=0, append=0)
    left, right = edges[change == 1], edges[change == -1]
    return path_of(left, right, np.zeros(len(left)), np.ones(len(left)))


def _column(sweep: Sweep, name: str) -> np.ndarray:
    return np.array([getattr(point, name) for point in sweep.points])


def _headline(verdict: Verdict, sweep: Sweep) -> str:
    size, few, total = _size(sweep), len(verdict.feasible), len(sweep.points)
    if few == total:
        return f"All {total} {size}s keep the SLO"
    if few:
        return f"{few} of {total} {size}s {'keeps' if few == 1 else 'keep'} the SLO"
    return (
        f"No {size} keeps the SLO; nearest {style.format_count(verdict.nearest)}: "
        f"{verdict.binding} {style.format_number(verdict.worst)} times its limit"
    )


def _say_point(point: Point) -> str:
    return (
        f"TTFT P50 {style.format_seconds(point.ttft_p50_s)}, P99 "
        f"{style.format_seconds(point.ttft_p99_s)}, ITL P99 "
        f"{style.format_seconds(point.itl_p99_s)}, "
        f"{style.format_number(point.output_tokens_per_s)} output tokens per second"
    )


def _size(sweep: Sweep) -> str:
    return "chunk size" if sweep.chunked else "token budget"


def _list(budgets: Sequence[int]) -> str:
    """"128", "128 and 256", "128, 256 and 512"."""
    names = [style.format_count(budget) for budget in budgets]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
