"""Capacities as bars: one group per model, workload and SLO, one bar per scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from coursekit.plots.style import (
    ACCENT, DECODE, MUTED, NOTE_SIZE, PREFILL, PREFILL_HATCH, TICK_SIZE, describe, dress_axes,
    label_provenance, new_figure,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = ((ACCENT, ".."), (PREFILL, PREFILL_HATCH), (DECODE, ""))  # of the schedulers, in order
BAR = 0.27  # wide, of a group one wide


def capacity_bars(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    schedulers: Sequence[str],
    stated_gains: Mapping[tuple[str, str], float],
    provenance: str,
) -> Figure:
    """Requests per second by scheduler, and the last one's gain over the one before it.

    panels: title -> group -> the capacity of each of `schedulers` (up to three); stated_gains:
    (title, group) -> the gain that a publication states, written beside ours. Raises ValueError
    without a panel, or for a group without one capacity per scheduler.
    """
    _check(panels, schedulers)
    figure = new_figure(width=12.0, height=1.1 + 3.1 * -(-len(panels) // 2))
    columns = min(len(panels), 2)
    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for ax, (title, groups) in zip(axes, panels.items()):
        _draw(ax, title, groups, schedulers, stated_gains)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=3, fontsize=NOTE_SIZE, frameon=False,
        title=f"Serving capacity; × is {schedulers[-1]} over {schedulers[-2]}",
        title_fontsize=NOTE_SIZE,
    )  # fmt: skip
    label_provenance(figure, provenance)
    return describe(figure, _in_words(panels, schedulers, stated_gains))


def _draw(ax: Axes, title: str, groups, schedulers, stated_gains) -> None:
    highest = max(max(rates) for rates in groups.values())
    for k, (name, (colour, hatch)) in enumerate(zip(schedulers, LOOKS)):
        places = [group + (k - (len(schedulers) - 1) / 2) * BAR for group in range(len(groups))]
        ax.bar(places, [rates[k] for rates in groups.values()], BAR * 0.92, label=name,
               color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)  # fmt: skip
    for place, (group, rates) in enumerate(groups.items()):
        gain = _gain(rates)
        text = f"×{gain:.3g}" if gain == gain else ""
        if (title, group) in stated_gains:
            text += f"\npaper ×{stated_gains[title, group]:.3g}"
        ax.text(place + (len(schedulers) - 1) / 2 * BAR, rates[-1] + highest * 0.03, text,
                ha="center", va="bottom", fontsize=NOTE_SIZE - 1, color=MUTED)  # fmt: skip
    dress_axes(ax, "", "requests/s", title)
    ax.set_xticks(range(len(groups)), list(groups), fontsize=TICK_SIZE)
    ax.set_ylim(0, highest * 1.38)
    ax.grid(False, axis="x")


def _gain(rates: Sequence[float]) -> float:
    return rates[-1] / rates[-2] if len(rates) > 1 and rates[-2] else float("nan")


def _check(panels, schedulers) -> None:
    if not panels or not all(panels.values()):
        raise ValueError("panels must hold at least 1 group of capacities each, got none")
    if not 2 <= len(schedulers) <= len(LOOKS):
        raise ValueError(f"schedulers must be 2 or 3 names, got {len(schedulers)}")
    for title, groups in panels.items():
        for group, rates in groups.items():
            if len(rates) != len(schedulers):
                raise ValueError(
                    f"{title}, {group}: one capacity per scheduler is needed, got {len(rates)} "
                    f"for {len(schedulers)}"
                )


def _in_words(panels, schedulers, stated_gains) -> str:
    parts = []
    for title, groups in panels.items():
        for group, rates in groups.items():
            each = ", ".join(f"{name} {rate:.3g}" for name, rate in zip(schedulers, rates))
            paper = stated_gains.get((title, group))
            beside = f" (the paper states {paper:g})" if paper else ""
            parts.append(
                f"{title}, {group.replace(chr(10), ' ')}: {each}; {schedulers[-1]} over "
                f"{schedulers[-2]} {_gain(rates):.2f}{beside}"
            )
    return "Capacity in requests per second. " + ". ".join(parts) + "."
