"""Picture of the knee: an iteration's time against its tokens, and where that begins to grow."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from coursekit.analyzers.findings import describe_knee
from coursekit.plots import style
from coursekit.plots.prefill_decode import scale_sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from coursekit.analyzers.knee import Knee


def against_tokens(knee: Knee) -> Figure:
    """Seconds of an iteration over its tokens, with the fit, the floor, and the knee marked.

    Where no knee lies in the range, the number of tokens at which computing takes as long as
    the floor is marked instead, if there is one; the device's ridge is, where it is known.
    """
    figure = style.new_figure(10, 5.4)
    ax, table = figure.subplots(), knee.table
    ax.plot(
        table["num_tokens"], table["seconds"], style.PREFILL_MARKER, color=style.PREFILL,
        markersize=8, label="one iteration", gid="times",
    )  # fmt: skip
    ax.plot(table["num_tokens"], table["fitted_s"], color=style.MUTED, linewidth=2, label="fit")
    ax.axhline(knee.floor_s, color=style.MUTED, linestyle=":", linewidth=1.5,
               label=f"floor {style.format_seconds(knee.floor_s)}")  # fmt: skip
    marks = [
        (knee.tokens, "-", style.DECODE, "knee"),
        (knee.doubled_at if knee.reason else math.nan, "--", style.DECODE, "as long as the floor"),
        (knee.ridge_tokens, "-.", style.ACCENT, "ridge of the roofline"),
    ]
    for at, line, color, name in marks:
        if at == at:
            label = f"{name}: {style.format_count(at)} tokens"
            ax.axvline(at, color=color, linestyle=line, linewidth=2, label=label, gid=name)
    scale_sizes(ax, table["num_tokens"])
    style.dress_axes(ax, "tokens of the iteration", "duration", knee_caption(knee))
    ax.legend(loc="upper left", frameon=False, fontsize=style.NOTE_SIZE)
    style.label_provenance(figure, knee.label)
    return style.describe(
        figure, f"Time of an iteration against its tokens, {knee.label}. {describe_knee(knee)}"
    )


def knee_caption(knee: Knee) -> str:
    """Where tokens stop being nearly free, in a line."""
    if not knee.reason:
        return f"Tokens are nearly free up to {style.format_count(knee.tokens)}"
    largest = style.format_count(knee.largest)
    return {
        "free": "No knee: tokens cost nothing but their attention",
        "flat": f"No knee up to {largest} tokens: the floor covers them",
        "dear": "No knee: every token costs from the first one on",
    }[knee.reason]
