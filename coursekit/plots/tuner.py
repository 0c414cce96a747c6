"""The picture under the chunk tuner: iterations as they ran, and the gaps that they caused.

Above, each iteration as a bar from its start to its end, its decode and prefill tokens stacked;
below, every gap between two tokens of a stream, where it ended, with the SLO. `TunerPicture`
changes the same artists again and again, because a live engine is drawn several times a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from coursekit.analyzers.tuning import TunerView

MOST_BARS = 1500  # drawn at once; the oldest are left out
MOST_PARTED = 60  # bars up to which gaps between them can be seen
TOKEN_TICKS = (4, 16, 64, 256, 1024, 4096, 16384)
LEAST_GAP_S = 1e-4


class TunerPicture:
    """A figure of a `TunerView`; `update` shows another state of it."""

    def __init__(self, width: float = 9.4, height: float = 5.6):
        from matplotlib.collections import PolyCollection

        self.figure: Figure = style.new_figure(width, height)
        self._tokens, self._gaps = self.figure.subplots(2, sharex=True, height_ratios=[1, 1.2])
        edge = {"edgecolors": style.PAPER}
        self._decode = PolyCollection([], facecolors=style.DECODE, **edge)
        self._prefill = PolyCollection(
            [], facecolors=style.PREFILL, hatch=style.PREFILL_HATCH, **edge
        )
        for bars in (self._decode, self._prefill):
            self._tokens.add_collection(bars, autolim=False)
        common = {"linestyle": "none", "markersize": 6}
        (self._fine,) = self._gaps.plot([], [], marker="o", color=style.DECODE, **common)
        (self._over,) = self._gaps.plot(
            [], [], marker="X", color=style.PREFILL, linestyle="none", markersize=9
        )
        self._slo = self._gaps.axhline(1, color=style.TEXT, linewidth=1.5, linestyle="--")
        self._arrivals = [ax.vlines([], 0, 1, colors=style.MUTED, linestyles=":") for ax in
                          (self._tokens, self._gaps)]  # fmt: skip
        self._dress()
        self._lay_out()
        self._provenance = ""

    def _lay_out(self) -> None:
        """Place the axes once, with the widest labels they may get: to do it anew takes longer
        than all the drawing."""
        self._tokens.set_ylim(0, TOKEN_TICKS[-1])
        self._tokens.set_yticks(TOKEN_TICKS[-1:])
        self._gaps.set_ylim(0.01, 1)
        self.figure.get_layout_engine().execute(self.figure)
        self.figure.set_layout_engine("none")

    def _dress(self) -> None:
        from matplotlib.patches import Patch

        style.dress_axes(self._tokens, ylabel="tokens")
        style.dress_axes(self._gaps, "time (s)", "gap between tokens")
        self._tokens.set_yscale("function", functions=(np.sqrt, np.square))
        self._gaps.set_yscale("log")
        self._gaps.yaxis.set_major_formatter(lambda value, _: _short_seconds(value))
        self._gaps.yaxis.set_minor_formatter(lambda value, _: "")
        self._fine.set_label("gap")
        self._over.set_label("gap over the SLO")
        self._arrivals[0].set_label("prompt arrives")
        self._slo.set_label("SLO 60,000 ms")  # as wide as it gets
        look = {"hatch": style.PREFILL_HATCH, "edgecolor": style.PAPER}
        handles = [
            Patch(facecolor=style.DECODE, label="decode"),
            Patch(facecolor=style.PREFILL, label="prefill", **look),
            self._fine, self._over, self._arrivals[0], self._slo,
        ]  # fmt: skip
        legend = self._tokens.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(1.01, 1.0), ncols=6,
            frameon=False, fontsize=style.NOTE_SIZE, columnspacing=0.8, handlelength=1.1,
            handletextpad=0.5,
        )  # fmt: skip
        self._slo_text = legend.get_texts()[-1]

    def update(self, view: TunerView, from_s: float | None = None) -> None:
        """Show `view` from `from_s` on (None: all of it)."""
        first = 0 if from_s is None else int(np.searchsorted(view.ends_s, from_s))
        first = max(first, len(view.ends_s) - MOST_BARS)
        start_s = view.starts_s[first] if first < len(view.starts_s) else 0.0
        self._draw_bars(view, first)
        self._draw_gaps(view, start_s)
        arrivals = [prompt.arrival_s for prompt in view.prompts if prompt.arrival_s >= start_s]
        for lines, ax in zip(self._arrivals, (self._tokens, self._gaps)):
            low, high = ax.get_ylim()
            lines.set_segments([[(at, low), (at, high)] for at in arrivals])
        end_s = view.ends_s[-1] if view.ends_s else 1.0
        self._tokens.set_xlim(start_s, max(end_s, start_s + 1e-3))
        if view.label != self._provenance:
            for text in list(self.figure.texts):
                text.remove()
            style.label_provenance(self.figure, view.label)
            self._provenance = view.label
        style.describe(self.figure, describe_view(view))

    def _draw_bars(self, view: TunerView, first: int) -> None:
        starts, ends = np.array(view.starts_s[first:]), np.array(view.ends_s[first:])
        decode = np.array(view.num_decode[first:], float)
        total = decode + np.array(view.num_prefill[first:], float)
        parted = len(starts) <= MOST_PARTED
        for bars in (self._decode, self._prefill):
            bars.set_linewidth(0.8 if parted else 0)
            bars.set_antialiased(parted)  # smoothed edges leave slits between bars
        self._decode.set_verts(_bars(starts, ends, np.zeros(len(starts)), decode))
        busy = total > decode
        self._prefill.set_verts(_bars(starts[busy], ends[busy], decode[busy], total[busy]))
        most = max(total.max() if len(total) else 0, 16)
        self._tokens.set_ylim(0, 1.1 * most)
        ticks = [tick for tick in TOKEN_TICKS if most / 100 <= tick <= most]
        self._tokens.set_yticks([0, *ticks])

    def _draw_gaps(self, view: TunerView, start_s: float) -> None:
        first = int(np.searchsorted(view.gap_ends_s, start_s))
        ends, gaps = np.array(view.gap_ends_s[first:]), np.array(view.gaps_s[first:])
        over = gaps > view.slo_s
        self._fine.set_data(ends[~over], gaps[~over])
        self._over.set_data(ends[over], gaps[over])
        self._slo.set_ydata([view.slo_s, view.slo_s])
        self._slo_text.set_text(f"SLO {style.format_seconds(view.slo_s)}")
        values = np.append(gaps[gaps > 0], view.slo_s)
        self._gaps.set_ylim(max(values.min() / 1.6, LEAST_GAP_S), values.max() * 2)


def _bars(starts: np.ndarray, ends: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Corners of upright rectangles, (num_bars, 4, 2)."""
    x = np.stack((starts, starts, ends, ends), axis=1)
    y = np.stack((low, high, high, low), axis=1)
    return np.stack((x, y), axis=2)


def _short_seconds(value: float) -> str:
    return f"{value * 1e3:g} ms" if value < 0.9995 else f"{value:g} s"


def describe_view(view: TunerView) -> str:
    """The picture in words."""
    seconds = style.format_seconds
    if not view.ends_s:
        return "No iteration has run yet."
    words = [
        f"{len(view.ends_s)} iterations, {seconds(view.ends_s[-1] - view.starts_s[0])} long. "
        f"Streams usually wait {seconds(view.usual_gap_s)} for a token, at worst "
        f"{seconds(view.worst_gap_s)}; {view.num_over_slo} of {len(view.gaps_s)} gaps are over "
        f"the SLO of {seconds(view.slo_s)}."
    ]
    for prompt in view.prompts[-3:]:
        words.append(
            f"A prompt of {style.format_count(prompt.prompt_length)} tokens at a budget of "
            f"{prompt.token_budget}: first token after {seconds(prompt.ttft_s)}, worst gap of "
            f"a stream {seconds(prompt.worst_gap_s)}."
        )
    return " ".join(words)
