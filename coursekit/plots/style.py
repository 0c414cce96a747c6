"""The look that all pictures share: colours, sizes, units, and where the numbers are from.

Every figure of the course starts as `new_figure(...)`, carries a provenance label and a
description for those who can't see it, and is never registered with pyplot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with any common colour blindness. Only those of its
# colours that also stand out from white by 3:1 are used.
PREFILL = "#D55E00"  # vermilion, always hatched or with square markers as the second cue
DECODE = "#0072B2"  # blue, always plain or with round markers
ACCENT = "#009E73"  # bluish green, for a third thing
TEXT = "#000000"
MUTED = "#595959"  # grey that is still readable as small text
GRID = "#D9D9D9"  # a hint of a line, carries no information
PAPER = "#FFFFFF"

PREFILL_HATCH = "//"
PREFILL_MARKER = "s"
DECODE_MARKER = "o"

# Points on a figure 10 inches wide: readable from the last row when it fills a projector.
TITLE_SIZE = 16
LABEL_SIZE = 14
TICK_SIZE = 13
NOTE_SIZE = 13
PROVENANCE_SIZE = 11

PROVENANCES = ("simulated", "recorded (", "live (")
_PROVENANCE_HEIGHT = 0.3  # inches kept free at the bottom of each figure


def new_figure(width: float = 10.0, height: float = 4.5) -> Figure:
    """An empty figure of `width` by `height` inches, outside pyplot.

    As the last expression of a notebook cell, or with `display(fig)`, it shows once, with
    its alternative text, whatever backend the notebook uses.
    """
    from coursekit.plots.figure import CourseFigure

    figure = CourseFigure(
        figsize=(width, height), dpi=100, facecolor=PAPER, layout="constrained"
    )
    reserved = _PROVENANCE_HEIGHT / height
    figure.get_layout_engine().set(rect=(0, reserved, 1, 1 - reserved))
    return figure


def label_provenance(figure: Figure, provenance: str) -> None:
    """Write where the numbers come from into the figure's lower right corner.

    `provenance` may hold several sources, parted by " · ". Each starts with "simulated",
    "recorded (device, date)" or "live (device)"; anything else is a ValueError.
    """
    for source in provenance.split(" · "):
        if not source.startswith(PROVENANCES):
            raise ValueError(
                f"provenance must start with one of {PROVENANCES}, got {source!r}: "
                "say whether the numbers are simulated, recorded or live, and on what device"
            )
    figure.text(
        0.995, 0.012, provenance, ha="right", va="bottom", gid="provenance",
        fontsize=PROVENANCE_SIZE, color=MUTED,
    )


def describe(figure: Figure, text: str) -> Figure:
    """Attach the text that stands for the picture where it can't be seen; return `figure`.

    It becomes the image's `alt` in the notebook and the figure's plain-text form.
    Raises ValueError on empty text.
    """
    if not text.strip():
        raise ValueError("a figure needs a description, got an empty text: say what it shows")
    figure.alt_text = text
    return figure


def dress_axes(ax: Axes, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    """Labels, ticks and grid of one axes in the course's sizes; no box around it."""
    if title:
        ax.set_title(title, fontsize=TITLE_SIZE, loc="left", color=TEXT)
    ax.set_xlabel(xlabel, fontsize=LABEL_SIZE)
    ax.set_ylabel(ylabel, fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=TICK_SIZE)
    ax.grid(True, color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def format_seconds(seconds: float) -> str:
    """A duration for display, two or three digits with the fitting unit: "45.2 ms"."""
    if seconds != seconds:
        return "n/a"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if abs(seconds) < limit * 0.9995:
            return f"{_three_digits(seconds * factor)} {unit}"
    return f"{_three_digits(seconds)} s"


def format_factor(factor: float) -> str:
    """A ratio for display with two digits that count: "1.3", "13", "120"."""
    return f"{factor:.1f}" if factor < 9.95 else f"{float(f'{factor:.2g}'):,.0f}"


def format_count(count: float) -> str:
    """A count for display, with a comma between thousands: "1,024"."""
    return f"{count:,.0f}"


def format_number(value: float) -> str:
    """Any number for display with three digits that count and no exponent: "1,560", "0.125"."""
    return f"{float(f'{value:.3g}'):,.15g}"


def _three_digits(value: float) -> str:
    size = abs(value)
    return f"{value:.0f}" if size >= 99.95 else f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"
