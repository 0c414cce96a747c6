"""Pictures of one blocking scenario: streams decode, a long prompt arrives, gaps grow.

`timeline` shows one run iteration by iteration, `compare` two runs on one time axis. They
read a `coursekit.analyzers.BlockingRun` and measure nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coursekit.analyzers.blocking import BlockingRun, Iteration


def timeline(run: BlockingRun, ax: Axes | None = None) -> Figure:
    """Every iteration of `run` as a bar: as wide as it took, as high as its tokens.

    Time is in seconds since the long prompt arrived. Decode tokens are the lower part of a
    bar, prefill tokens the upper. With `ax` the picture is drawn there and the caller labels
    and describes the figure; without, a new figure comes complete. Returns the figure.
    Raises ValueError if the run holds no iteration.
    """
    _require_iterations(run)
    own_figure = ax is None
    if own_figure:
        ax = style.new_figure(10, 4.6).subplots()
    _draw_bars(ax, run)
    _draw_events(ax, run)
    _mark_worst_gap(ax, run)
    _leave_room_for_notes(ax, [run])
    style.dress_axes(
        ax, "seconds since the prompt arrived", "tokens in the iteration", _title(run)
    )
    ax.legend(**_LEGEND)
    if own_figure:
        style.label_provenance(ax.figure, run.label)
        style.describe(ax.figure, describe_run(run))
    return ax.figure


def compare(run_a: BlockingRun, run_b: BlockingRun) -> Figure:
    """Two runs above each other on one time axis, and the factor between their worst gaps.

    The usual order is unchunked first, chunked second. Raises ValueError if a run is empty.
    """
    for run in (run_a, run_b):
        _require_iterations(run)
    figure = style.new_figure(10, 7.2)
    axes = figure.subplots(2, sharex=True, sharey=True)
    for ax, run in zip(axes, (run_a, run_b), strict=True):
        timeline(run, ax)
    _leave_room_for_notes(axes[0], [run_a, run_b])
    axes[0].set_xlabel("")
    axes[1].get_legend().remove()
    headline = _headline(run_a, run_b)
    figure.suptitle(headline, fontsize=style.TITLE_SIZE + 2, fontweight="bold")
    style.label_provenance(figure, " · ".join(dict.fromkeys([run_a.label, run_b.label])))
    return style.describe(figure, f"{headline}. {describe_run(run_a)} {describe_run(run_b)}")


def describe_run(run: BlockingRun) -> str:
    """The picture of `run` in words, with the numbers that it shows."""
    return (
        f"Timeline of {len(run.iterations)} iterations, {run.label}: {run.num_streams} streams "
        f"decode while a prompt of {style.format_count(run.prompt_length)} tokens is processed "
        f"{_pieces(run)}. Worst gap between two tokens of a stream "
        f"{style.format_seconds(run.worst_itl_s)}, usual gap "
        f"{style.format_seconds(run.baseline_itl_s)}, "
        f"first token of the prompt after {style.format_seconds(run.ttft_s)}."
    )


_LEGEND = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "ncols": 2,
    "frameon": False,
    "fontsize": style.NOTE_SIZE,
    "borderaxespad": 0.1,
    "columnspacing": 1.2,
}


def _draw_bars(ax: Axes, run: BlockingRun) -> None:
    """Decode below, prefill above; on a log scale, or 4 tokens would vanish beside 1,024."""
    starts = [iteration.start_s - run.arrival_s for iteration in run.iterations]
    widths = [iteration.duration_s for iteration in run.iterations]
    decode = [iteration.num_decode_tokens for iteration in run.iterations]
    prefill = [iteration.num_prefill_tokens for iteration in run.iterations]
    span = run.iterations[-1].end_s - run.iterations[0].start_s
    edges = [0.6 if width > span / 300 else 0.2 for width in widths]  # thin bars: not all edge
    common = {"width": widths, "align": "edge", "edgecolor": style.PAPER, "linewidth": edges}
    ax.bar(starts, decode, color=style.DECODE, label=f"decode, {run.num_streams} streams", **common)
    ax.bar(
        starts, prefill, bottom=decode, color=style.PREFILL, label="prefill",
        hatch=style.PREFILL_HATCH, hatchcolor=style.PAPER, **common,
    )
    ax.set_yscale("log", base=2)
    ax.yaxis.set_major_formatter(lambda value, _: style.format_count(value))


def _leave_room_for_notes(ax: Axes, runs: list[BlockingRun]) -> None:
    """Ticks at powers of 4 up to the highest bar, and room for the notes above it."""
    highest = max(_tokens(iteration) for run in runs for iteration in run.iterations)
    ax.set_yticks([4**power for power in range(10) if 4**power <= highest])
    ax.minorticks_off()
    ax.set_ylim(1, max(16, highest) * 24)


def _tokens(iteration: Iteration) -> int:
    return iteration.num_prefill_tokens + iteration.num_decode_tokens


def _draw_events(ax: Axes, run: BlockingRun) -> None:
    """Two vertical lines: the prompt arrives, and its first token comes out."""
    note = {
        "xycoords": ("data", "axes fraction"), "textcoords": "offset points", "va": "top",
        "fontsize": style.NOTE_SIZE, "color": style.TEXT,
    }
    ax.axvline(0.0, color=style.TEXT, linewidth=1.5, linestyle="--")
    ax.annotate("prompt arrives", (0.0, 0.99), (5, 0), ha="left", **note)
    if run.ttft_s == run.ttft_s:  # a run that was stopped has none: not a number
        ax.axvline(run.ttft_s, color=style.TEXT, linewidth=1.5, linestyle=":")
        text = f"first token: TTFT {style.format_seconds(run.ttft_s)}"
        ax.annotate(text, (run.ttft_s, 0.99), (-5, 0), ha="right", **note)


def _mark_worst_gap(ax: Axes, run: BlockingRun) -> None:
    """A double arrow over the longest iteration: what every decoding stream waits for."""
    worst = max(run.iterations, key=lambda iteration: iteration.duration_s)
    start, end = worst.start_s - run.arrival_s, worst.end_s - run.arrival_s
    height = 1.6 * _tokens(worst)
    arrow = {"arrowstyle": "<->", "color": style.TEXT, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (start, height), (end, height), arrowprops=arrow)
    text = (
        f"worst gap {style.format_seconds(run.worst_itl_s)}, "
        f"usual {style.format_seconds(run.baseline_itl_s)}"
    )
    at, side, indent = _beside(start, end, run)
    ax.annotate(
        text, (at, height), (indent, 5), textcoords="offset points", ha=side, va="bottom",
        fontsize=style.NOTE_SIZE, fontweight="bold", color=style.TEXT,
    )


def _beside(start: float, end: float, run: BlockingRun) -> tuple[float, str, int]:
    """Anchor, alignment and indent of a note on [start, end]: a short span's runs inwards."""
    first, last = run.iterations[0].start_s, run.iterations[-1].end_s
    middle = (first + last) / 2 - run.arrival_s
    if end - start > (last - first) / 2:
        return (start + end) / 2, "center", 0
    return (end, "right", -5) if (start + end) / 2 > middle else (start, "left", 5)


def _title(run: BlockingRun) -> str:
    return f"{style.format_count(run.prompt_length)}-token prompt {_pieces(run)}"


def _pieces(run: BlockingRun) -> str:
    if run.chunk_size is None or run.chunk_size >= run.prompt_length:
        return "in one piece"
    return f"in {run.num_chunks} chunks of {run.chunk_size}"


def _headline(run_a: BlockingRun, run_b: BlockingRun) -> str:
    factor = run_a.worst_itl_s / run_b.worst_itl_s
    word = "smaller" if factor >= 1 else "larger"
    return (
        f"Worst gap {style.format_seconds(run_a.worst_itl_s)} → "
        f"{style.format_seconds(run_b.worst_itl_s)}: "
        f"{style.format_factor(max(factor, 1 / factor))} times {word}"
    )


def _require_iterations(run: BlockingRun) -> None:
    if not run.iterations:
        raise ValueError(
            "the run holds 0 iterations, at least 1 is needed: measure it with measure_blocking"
        )
