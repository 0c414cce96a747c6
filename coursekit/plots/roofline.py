"""The roofline: what a device can reach at each arithmetic intensity, and what was reached.

Left of the ridge the memory's bandwidth is the limit, right of it the arithmetic units are
(Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Point = tuple[str, float, float]  # name, FLOPs per byte, achieved FLOP/s

# Offsets in points and alignments that are tried for a label: beside its marker, then under
# the roof, then above it; the far ones are tied to their marker by a thin line.
_PLACES = (
    ((11, 0), "left", "center"), ((-11, 0), "right", "center"),
    ((10, -14), "left", "top"), ((-10, -14), "right", "top"), ((0, -12), "center", "top"),
    ((10, -34), "left", "top"), ((-10, -34), "right", "top"),
    ((10, -54), "left", "top"), ((-10, -54), "right", "top"),
    ((0, 12), "center", "bottom"), ((10, 14), "left", "bottom"), ((-10, 14), "right", "bottom"),
    ((10, 34), "left", "bottom"), ((-10, 34), "right", "bottom"),
)
_ABOVE = ((0, 12), "center", "bottom")
_FAR = 30  # points


def roofline(
    peak_flops: float, bandwidth: float, points: Sequence[Point], label: str
) -> Figure:
    """The roof of a device and the `points` measured under it, both axes logarithmic.

    peak_flops: FLOP/s, bandwidth: bytes/s, both as reached on the device, not as promised.
    points: (name, FLOPs per byte moved, FLOP/s achieved). A name that starts with "prefill"
    or "decode" gets that phase's colour and marker. label: where the numbers come from.
    Raises ValueError unless all numbers are above 0 and there is at least one point.
    """
    _check(peak_flops, bandwidth, points)
    figure = style.new_figure(10, 6)
    ax = figure.subplots()
    ridge = peak_flops / bandwidth
    _scale_axes(ax, peak_flops, bandwidth, points)
    _draw_roof(ax, peak_flops, bandwidth, ridge)
    for point in points:
        _draw_point(ax, point)
    style.dress_axes(
        ax, "arithmetic intensity (FLOPs per byte moved)", "FLOP/s", "Roofline of this device"
    )
    style.label_provenance(figure, label)
    _place_labels(ax, points, ridge, peak_flops)
    return style.describe(figure, _in_words(peak_flops, bandwidth, points, label))


def format_rate(value: float, unit: str = "FLOP/s") -> str:
    """A rate for display with its prefix: "1.2 TFLOP/s"."""
    for prefix, factor in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def _scale_axes(ax: Axes, peak_flops: float, bandwidth: float, points: Sequence[Point]) -> None:
    ridge = peak_flops / bandwidth
    lowest_x = min([ridge / 4] + [intensity for _, intensity, _ in points])
    highest_x = max([ridge * 4] + [intensity for _, intensity, _ in points])
    lowest_y = min([bandwidth * lowest_x] + [achieved for _, _, achieved in points])
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlim(lowest_x / 2, highest_x * 4)  # labels of the outer points need room
    ax.set_ylim(lowest_y / 3, peak_flops * 4)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    ax.yaxis.set_major_formatter(lambda value, _: format_rate(value))
    ax.minorticks_off()


def _draw_roof(ax: Axes, peak_flops: float, bandwidth: float, ridge: float) -> None:
    """Two lines, the shaded sides below them, and the ridge where they meet."""
    left, right = ax.get_xlim()
    bottom = ax.get_ylim()[0]
    slope = [left, ridge], [bandwidth * left, peak_flops]
    flat = [ridge, right], [peak_flops, peak_flops]
    for line, color in ((slope, style.DECODE), (flat, style.PREFILL)):
        ax.fill_between(*line, bottom, color=color, alpha=0.07, linewidth=0)
        ax.plot(*line, color=style.TEXT, linewidth=3, solid_capstyle="round", gid="roof")
    ax.plot(
        [ridge, ridge], [bottom, peak_flops], ":", color=style.MUTED, linewidth=2, gid="ridge"
    )
    note = {"xycoords": ("data", "axes fraction"), "fontsize": style.NOTE_SIZE, "va": "bottom"}
    for text, x, side in (
        ("bandwidth-bound ", ridge, "right"), (" compute-bound", ridge, "left"),
    ):
        ax.annotate(text, (x, 0.015), ha=side, color=style.MUTED, **note)


def _draw_point(ax: Axes, point: Point) -> None:
    name, intensity, achieved = point
    color, marker = style.ACCENT, "D"
    if name.lower().startswith("prefill"):
        color, marker = style.PREFILL, style.PREFILL_MARKER
    elif name.lower().startswith("decode"):
        color, marker = style.DECODE, style.DECODE_MARKER
    ax.plot(
        [intensity], [achieved], marker, color=color, markersize=12,
        markeredgecolor=style.TEXT, markeredgewidth=1, gid="point", zorder=4,
    )


def _place_labels(ax: Axes, points: Sequence[Point], ridge: float, peak_flops: float) -> None:
    """Name the ridge, then each point where its text meets no other text and no marker."""
    figure = ax.figure
    figure.draw_without_rendering()  # sizes in pixels are known from here on
    ridge_text = f"ridge: {_intensity(ridge)}\npeak {format_rate(peak_flops)}"
    boxes = [_box(_label(ax, ridge_text, ridge, peak_flops, _ABOVE))]
    boxes += _line_boxes(ax)
    boxes += [_marker_box(ax, x, y) for _, x, y in points]
    for name, intensity, achieved in points:
        for place in _PLACES:
            text = _label(ax, name, intensity, achieved, place)
            if _fits(ax, _box(text), boxes) or place is _PLACES[-1]:
                boxes.append(_box(text))
                if abs(place[0][1]) > _FAR:
                    _tie_to_marker(ax, intensity, achieved, place)
                break
            text.remove()


def _label(ax: Axes, text: str, x: float, y: float, place: tuple) -> Annotation:
    offset, horizontal, vertical = place
    return ax.annotate(
        text, (x, y), offset, textcoords="offset points", ha=horizontal, va=vertical,
        fontsize=style.NOTE_SIZE, color=style.TEXT, gid="label", zorder=5,
    )


def _tie_to_marker(ax: Axes, x: float, y: float, place: tuple) -> None:
    offset, _, _ = place
    tie = {"arrowstyle": "-", "color": style.MUTED, "shrinkA": 0, "shrinkB": 7}
    ax.annotate("", (x, y), offset, textcoords="offset points", arrowprops=tie)


def _box(text: Annotation):
    return text.get_window_extent().padded(1)


def _marker_box(ax: Axes, x: float, y: float, half_width: float = 9.0):
    """The square of pixels, `half_width` to each side, around a point of the data."""
    from matplotlib.transforms import Bbox

    column, row = ax.transData.transform((x, y))
    return Bbox.from_extents(
        column - half_width, row - half_width, column + half_width, row + half_width
    )


def _line_boxes(ax: Axes) -> list:
    """Small squares all along the roof, so that no label lies across it."""
    boxes = []
    lines = [line.get_xydata() for line in ax.lines if line.get_gid() == "roof"]
    for start, end in lines:
        columns, rows = _between(start[0], end[0]), _between(start[1], end[1])
        boxes += [_marker_box(ax, x, y, 3) for x, y in zip(columns, rows, strict=True)]
    return boxes


def _between(start: float, end: float, steps: int = 120) -> list[float]:
    """`steps` + 1 values from start to end, evenly spaced on a log scale."""
    return [start * (end / start) ** (step / steps) for step in range(steps + 1)]


def _fits(ax: Axes, box, others: list) -> bool:
    frame = ax.get_window_extent()
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0
    return inside and box.y1 <= frame.y1 and not any(box.overlaps(other) for other in others)


def _intensity(flops_per_byte: float) -> str:
    return f"{style.format_number(flops_per_byte)} FLOPs per byte"


def _in_words(
    peak_flops: float, bandwidth: float, points: Sequence[Point], label: str
) -> str:
    ridge = peak_flops / bandwidth
    placed = "; ".join(
        f"{name} reaches {format_rate(achieved)} at {_intensity(intensity)} "
        f"({'bandwidth' if intensity < ridge else 'compute'}-bound)"
        for name, intensity, achieved in points
    )
    return (
        f"Roofline, {label}: peak {format_rate(peak_flops)}, bandwidth "
        f"{format_rate(bandwidth, 'B/s')}, ridge at {_intensity(ridge)}. {placed}."
    )


def _check(peak_flops: float, bandwidth: float, points: Sequence[Point]) -> None:
    named = [("peak_flops", peak_flops), ("bandwidth", bandwidth)]
    for name, intensity, achieved in points:
        named += [(f"FLOPs per byte of {name}", intensity), (f"FLOP/s of {name}", achieved)]
    for what, value in named:
        if not value > 0:
            raise ValueError(f"{what} must be > 0, got {value}: measure it first")
    if not points:
        raise ValueError("points holds 0 points, at least 1 is needed: measure a workload")
