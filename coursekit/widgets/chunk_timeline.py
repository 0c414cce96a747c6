"""Chunk size against the real model: move the slider, the model runs, the timeline shows it.

`ChunkTimeline` is the widget, `chunk_timeline` the same picture as a plain function. Nothing
here is simulated and nothing is looked up: every position of the slider is measured anew.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as widgets

from coursekit.plots import style
from coursekit.plots.blocking import describe_run, timeline
from coursekit.widgets.canvas import live_canvas
from coursekit.widgets.device_lock import hold_device
from coursekit.widgets.for_ears import for_ears

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coursekit.analyzers.blocking import BlockingRun, Iteration
    from coursekit.models.decoder import Decoder

CHUNK_SIZES = (16, 32, 64, 128, 256, 512, 1024)
_STATUS_EVERY_S = 0.25  # more often would be noise, to the reader and to the measurement
_GATHER_S = 0.05  # long enough for queued messages, too short to be felt
_log = logging.getLogger(__name__)
_numbers = itertools.count(1)


def chunk_timeline(
    model: Decoder, chunk_size: int | None, prompt_length: int = 1024, num_streams: int = 4
) -> Figure:
    """Measure `model` at one chunk size (None: one shot) and return the timeline.

    Sizes are in tokens. Raises ValueError as `measure_blocking` does.
    """
    with hold_device("chunk_timeline()"):
        run = _default_measure()(
            model, prompt_length=prompt_length, chunk_size=chunk_size, num_streams=num_streams
        )
    return timeline(run)


class ChunkTimeline(widgets.VBox):
    """A slider for the chunk size, the numbers that were measured, and their picture.

    model: a decoder; without it the default model is loaded. prompt_length: tokens of the
    prompt that arrives while `num_streams` streams decode. chunk_sizes: what the slider
    offers, in tokens; it starts in the middle. measure: a stand-in for `measure_blocking`.

    The first measurement is made on construction, later ones between cells, where the first
    ran. A newer value stops the run of an older one. A failure stands in the status line, goes
    to the log, and `wait` raises it.
    Raises ValueError on an empty or unusable `chunk_sizes`, and whatever `measure` raises.
    """

    def __init__(
        self,
        model: Decoder | None = None,
        prompt_length: int = 1024,
        num_streams: int = 4,
        chunk_sizes: Sequence[int] = CHUNK_SIZES,
        measure: Callable[..., BlockingRun] | None = None,
    ):
        _check_chunk_sizes(chunk_sizes)
        self.name = f"chunk timeline {next(_numbers)}"
        self.runs: list[BlockingRun] = []
        self._prompt_length, self._num_streams = prompt_length, num_streams
        self._chunk_sizes = tuple(chunk_sizes)
        self._measure = measure or _default_measure()
        self._model = model if model is not None or measure else _default_model()
        self._loop, self._home = _running_loop(), threading.get_ident()
        self._changed = threading.Condition()  # guards the five below
        self._wanted: int | None = None
        self._busy = self._queued = False
        self._error: Exception | None = None
        self._closed = False
        self._build_controls()
        self._build_picture()
        chooser = widgets.HBox([self.slider, self.choice])
        super().__init__([chooser, self.status, self.readout, self.picture_text, self.canvas])
        self.add_class("coursekit-chunk-timeline")
        try:
            self._measure_and_show(self.slider.value)
        except BaseException:  # an interrupt too: nothing half-made stays on the page
            self.close()
            raise
        self.slider.observe(self._on_slider, names="value")

    def wait(self, timeout: float | None = None) -> BlockingRun:
        """Block until the value last asked for is measured; return its run.

        timeout: in seconds. Raises TimeoutError after it, and what the measurement raised.
        """
        if threading.get_ident() == self._home:
            self._work_if_queued()  # behind this very cell, where it would wait for us
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy, timeout):
                raise TimeoutError(f"{self.name} is still measuring after {timeout} s")
            if self._error is not None:
                raise self._error
            return self.runs[-1]

    def close(self) -> None:
        """Stop measuring, within one iteration, and take the widget off the page."""
        if not hasattr(self, "_closed"):  # the constructor refused its arguments
            return
        self._closed = True
        for part in (self.slider, self.choice, self.status, self.readout, self.picture_text):
            part.close()
        self.canvas.close()
        super().close()

    # What is on the page

    def _build_controls(self) -> None:
        options = [(self._option(size), size) for size in self._chunk_sizes]
        start = self._chunk_sizes[len(self._chunk_sizes) // 2]
        self.slider = widgets.SelectionSlider(
            description="Chunk size", options=options, value=start, readout=False,
            continuous_update=False, style={"description_width": "initial"},
            layout={"width": "420px"},
        )
        # The slider has no name for screen readers, and nothing in Python can give it one. A
        # menu has (its tooltip): it reads the slider out, and can be used in its stead.
        self.choice = widgets.Dropdown(
            options=options, value=start, layout={"width": "190px"},
            tooltip="Chunk size: tokens of the prompt per iteration",
        )
        widgets.link((self.slider, "value"), (self.choice, "value"))
        self.status, self.readout, self.picture_text = (widgets.HTML() for _ in range(3))
        for part, name in (
            (self.slider, "slider"), (self.choice, "choice"), (self.status, "status"),
            (self.readout, "readout"), (self.picture_text, "picture-text"),
        ):
            part.add_class(f"coursekit-{name}")

    def _option(self, size: int) -> str:
        whole = " (whole prompt)" if size >= self._prompt_length else ""
        return f"{style.format_count(size)} tokens{whole}"

    def _build_picture(self) -> None:
        self.figure = style.new_figure(9.4, 6.6)
        rows = [["timeline", "timeline"], ["gap", "ttft"]]
        self._axes = self.figure.subplot_mosaic(rows, height_ratios=[3, 2])
        self.canvas = live_canvas(self.figure)
        self.canvas.add_class("coursekit-canvas")

    # What happens when the slider moves

    def _on_slider(self, change) -> None:
        """Ask for the new value and return at once."""
        with self._changed:
            self._wanted = change["new"]
            if self._busy:
                return  # that run stops, and the new value is next
            self._busy = True
        self._say("waiting for the kernel …")
        self._start_work()

    def _start_work(self) -> None:
        """Have `_work` run between cells, on the thread that runs cells.

        JupyterLab delivers messages on another thread, so the slider stays alive meanwhile;
        where cells and messages share a thread, those that queued up during a run are taken
        together, as the delay lets them all in. A thread of our own would be simpler, but two
        sets of OpenMP threads in one process slow each other: 25% and more were seen.
        """
        if self._loop is None or self._loop.is_closed():
            threading.Thread(target=self._work, name=self.name, daemon=True).start()
            return
        self._queued = True
        self._loop.call_soon_threadsafe(self._loop.call_later, _GATHER_S, self._work_if_queued)

    def _work_if_queued(self) -> None:
        with self._changed:
            queued, self._queued = self._queued, False
        if queued:
            self._work()

    def _work(self) -> None:
        """Measure what is wanted until nothing new is."""
        while (chunk_size := self._next_wanted()) is not None:
            try:
                self._measure_and_show(chunk_size)
            except Exception as error:
                self._show_error(error)

    def _next_wanted(self) -> int | None:
        """Take the value to measure; without one, declare the work done."""
        with self._changed:
            wanted, self._wanted = self._wanted, None
            if wanted is None or self._closed:
                self._busy = False
                self._changed.notify_all()
                return None
            self._error = None
            return wanted

    def _is_outdated(self) -> bool:
        return self._closed or self._wanted is not None

    def _measure_and_show(self, chunk_size: int) -> None:
        """Run the model at `chunk_size` and show the result, unless it came to be outdated."""
        with hold_device(self.name, self._show_waiting, self._is_outdated) as held:
            if not held:
                return
            self._say(f"measuring {self._option(chunk_size)} …")
            began = time.perf_counter()
            run = self._measure(
                self._model, prompt_length=self._prompt_length, chunk_size=chunk_size,
                num_streams=self._num_streams, should_stop=self._is_outdated,
                on_iteration=self._progress(chunk_size),
            )
        if not self._is_outdated():
            self._show(run, time.perf_counter() - began)

    # What the learner gets to see

    def _say(self, text: str, role: str = "status") -> None:
        if not self._closed:
            self.status.value = f'<div role="{role}" style="font-size: 1.1em">{escape(text)}</div>'

    def _show_waiting(self, holder: str) -> None:
        self._say(f"waiting: {holder} is measuring on this device")

    def _show_error(self, error: Exception) -> None:
        with self._changed:
            self._error = error
        _log.error("%s could not measure", self.name, exc_info=error)
        shown = self._option(self.runs[-1].chunk_size)
        text = f"⚠ not measured: {type(error).__name__}: {error} (still shown: {shown})"
        self._say(text, role="alert")

    def _progress(self, chunk_size: int) -> Callable[[Iteration], None]:
        """A callback that counts the chunks in the status line, a few times per second."""
        num_chunks = -(-self._prompt_length // chunk_size)
        done, said_at = 0, time.perf_counter()

        def on_iteration(iteration: Iteration) -> None:
            nonlocal done, said_at
            done += iteration.num_prefill_tokens > 0
            if time.perf_counter() - said_at >= _STATUS_EVERY_S:
                said_at = time.perf_counter()
                option = self._option(chunk_size)
                self._say(f"measuring {option} … chunk {done} of {num_chunks}")

        return on_iteration

    def _show(self, run: BlockingRun, seconds: float) -> None:
        with self.canvas.lock:
            self.runs.append(run)
            self._draw()
            self.canvas.draw_idle()
        self.readout.value = _readout(run)
        self.picture_text.value = for_ears(describe_run(run))
        option = self._option(run.chunk_size)
        self._say(f"measured {option} in {style.format_seconds(seconds)}, {run.label}")

    def _draw(self) -> None:
        """Draw the newest run large, and all runs as points below it."""
        run = self.runs[-1]
        for ax in self._axes.values():
            ax.clear()
        timeline(run, self._axes["timeline"])
        gaps = [run.worst_itl_s for run in self.runs]
        ttfts = [run.ttft_s for run in self.runs]
        decode = {"color": style.DECODE, "marker": style.DECODE_MARKER}
        prefill = {"color": style.PREFILL, "marker": style.PREFILL_MARKER}
        self._draw_trade_off("gap", "worst gap of a stream", gaps, decode)
        self._draw_trade_off("ttft", "TTFT of the prompt", ttfts, prefill)
        for text in list(self.figure.texts):
            text.remove()
        style.label_provenance(self.figure, run.label)
        style.describe(self.figure, describe_run(run))

    def _draw_trade_off(self, name: str, title: str, values: list[float], phase: dict) -> None:
        """One number over chunk size: earlier runs hollow, the newest filled."""
        ax: Axes = self._axes[name]
        sizes = [run.chunk_size for run in self.runs]
        look = {**phase, "linestyle": "none", "markeredgewidth": 2}
        ax.plot(sizes[:-1], values[:-1], markersize=8, markerfacecolor=style.PAPER, **look)
        ax.plot(sizes[-1:], values[-1:], markersize=12, **look)
        ax.set_xscale("log", base=2)
        ax.set_xlim(min(self._chunk_sizes) / 1.5, max(self._chunk_sizes) * 1.5)
        ax.set_xticks(self._chunk_sizes)
        ax.minorticks_off()
        ax.xaxis.set_major_formatter(lambda value, _: style.format_count(value))
        ax.set_ylim(0, 1.25 * max(values))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g} s")
        ax.yaxis.set_major_locator(_few_ticks())
        style.dress_axes(ax, "chunk size (tokens)")
        ax.set_title(title, fontsize=style.LABEL_SIZE, loc="left")


def _readout(run: BlockingRun) -> str:
    """The four numbers of `run` as HTML that a screen reader announces when it changes."""
    numbers = (
        ("worst gap", style.format_seconds(run.worst_itl_s)),
        ("usual gap", style.format_seconds(run.baseline_itl_s)),
        ("TTFT", style.format_seconds(run.ttft_s)),
        ("prompt runs in", f"{run.num_chunks} chunk{'s' if run.num_chunks > 1 else ''}"),
    )
    cells = "".join(
        f'<div style="margin-right: 2em">{name}<br>'
        f'<strong style="font-size: 1.5em">{value}</strong></div>'
        for name, value in numbers
    )
    look = "display: flex; font-size: 1.2em; line-height: 1.5"
    return f'<div aria-live="polite" style="{look}">{cells}</div>'


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs this notebook's cells; None outside Jupyter."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _few_ticks():
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)


def _default_measure() -> Callable[..., BlockingRun]:
    from coursekit.analyzers.blocking import measure_blocking

    return measure_blocking


def _default_model() -> Decoder:
    from coursekit.models import load_model

    return load_model()


def _check_chunk_sizes(chunk_sizes: Sequence[int]) -> None:
    sizes = list(chunk_sizes)
    if not sizes:
        raise ValueError("chunk_sizes holds 0 sizes, at least 1 is needed: give some in tokens")
    for size in sizes:
        if type(size) is not int or size < 1:  # True is an int, too
            raise ValueError(f"each of chunk_sizes must be an int >= 1, got {size!r}")
    if sizes != sorted(set(sizes)):
        raise ValueError(f"chunk_sizes must rise, got {sizes}: sort them and drop repeats")
