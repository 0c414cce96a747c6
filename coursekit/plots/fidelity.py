"""Predicted beside measured: what share of the requests had their TTFT, and TPOT, by when.

Two curves that lie on each other are a simulation to trust; where they part is what to ask
about. It draws metrics by request, as `analyzers.fidelity` compares them, and computes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANELS = {"ttft_s": "Time to first token", "tpot_s": "Time per output token"}


def cdfs(
    measured: dict[str, np.ndarray], predicted: dict[str, np.ndarray],
    measured_label: str, predicted_label: str,
) -> Figure:  # fmt: skip
    """Cumulative shares of requests over TTFT and over TPOT, measured and predicted.

    measured, predicted: ttft_s and tpot_s by request, seconds; nan is left out. Labels: where
    each is from, as `style.label_provenance` wants them.
    Raises ValueError if a metric is missing or has no request.
    """
    for metrics in (measured, predicted):
        for key in _PANELS:
            if key not in metrics or not np.isfinite(metrics[key]).any():
                raise ValueError(f"each side needs {key} of at least 1 request, got none")
    figure = style.new_figure(12, 5.2)
    said = []
    for ax, (key, title) in zip(figure.subplots(1, 2), _PANELS.items(), strict=True):
        theirs, ours = _sorted(measured[key]), _sorted(predicted[key])
        scale, unit = (1, "seconds") if np.median(theirs) >= 1 else (1e3, "milliseconds")
        _draw(ax, theirs * scale, "measured", style.DECODE, "-", 4.5)
        _draw(ax, ours * scale, "predicted", style.PREFILL, "--", 2.0)
        style.dress_axes(ax, unit, "share of requests", title)
        ax.set_ylim(0, 1.02)
        ax.set_xlim(left=0)
        said.append(_in_words(title, theirs, ours))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.axes[0].legend(
        handles, names, loc="lower right", fontsize=style.NOTE_SIZE, frameon=False
    )
    style.label_provenance(figure, f"{measured_label} · {predicted_label}")
    return style.describe(figure, " ".join(said))


def _draw(ax: Axes, values: np.ndarray, name: str, color: str, line: str, width: float) -> None:
    shares = np.arange(1, len(values) + 1) / len(values)
    ax.step(values, shares, line, where="post", color=color, linewidth=width, label=name)


def _in_words(title: str, theirs: np.ndarray, ours: np.ndarray) -> str:
    middle, tail = (
        f"{style.format_seconds(np.percentile(theirs, p))} measured and "
        f"{style.format_seconds(np.percentile(ours, p))} predicted"
        for p in (50, 99)
    )
    return f"{title} of {len(theirs)} requests: half have it by {middle}, 99% by {tail}."


def _sorted(values: np.ndarray) -> np.ndarray:
    return np.sort(values[np.isfinite(values)])
