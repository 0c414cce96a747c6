"""Requests and iterations of a record against time: who waited, who was prefilled, who decoded.

`gantt` draws one record, `compare_traces` two on one time axis; `Gantt` is the same picture,
of which the shown stretch and the marked iteration can be moved. Each draws a window of a
few dozen iterations and a few requests, so that a long record costs no more than a short one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from coursekit.analyzers.replay import Ran, Replay
from coursekit.plots import style
from coursekit.plots.boxes import path_of
from coursekit.schedulers import NAMES
from coursekit.schedulers.base import NO_LIMIT
from coursekit.trace import Trace

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import PathPatch

WINDOW = 60  # iterations
MAX_WINDOW = 1000
_MAX_ROWS = {1: 20, 2: 8}  # by number of traces: labels stay readable, the figure fits a screen
_NAMED = 6  # requests that a sentence names; the others it counts


def gantt(
    trace: Trace, iteration: int | None = None, window: int = WINDOW, name: str | None = None
) -> Figure:
    """One record: a row for each request, and below them the tokens of each iteration.

    Time is in seconds on the run's clock. iteration: the one to mark, 0-based; the picture
    shows about `window` iterations around it, or the first ones if None. name: a title in the
    stead of the scheduler's name. Raises ValueError for a record without iterations, an
    iteration that it does not have, or a window outside 1..MAX_WINDOW.
    """
    picture = Gantt([trace], None if name is None else [name], window)
    return picture.complete(iteration)


def compare_traces(
    traces: Sequence[Trace],
    iteration: int | None = None,
    window: int = WINDOW,
    names: Sequence[str] | None = None,
) -> Figure:
    """Two records of one workload above each other, on one time axis, with the same requests.

    iteration: of the first; in the second, what runs at the moment it starts is marked.
    Raises ValueError as `gantt` does, and for other than one or two traces.
    """
    return Gantt(traces, names, window).complete(iteration)


class Gantt:
    """One or two traces in a figure that `show` moves through.

    traces: a sequence of one or two; names: a title for each; window: iterations to show.
    """

    def __init__(
        self, traces: Sequence[Trace], names: Sequence[str] | None = None, window: int = WINDOW
    ):
        self.replays = _check_traces(traces)
        self.names = _check_names(names, self.replays)
        self.window = window
        self._requests = np.unique(np.concatenate([each.requests for each in self.replays]))
        num_rows = min(_MAX_ROWS[len(self.replays)], len(self._requests))
        self.figure, axes = _lay_out(len(self.replays), num_rows)
        self.panels = [_Panel(*pair, name, num_rows) for pair, name in zip(axes, self.names)]
        self.marked: list[Ran | None] = [None] * len(self.replays)
        self._shown: tuple | None = None
        style.label_provenance(self.figure, self.provenance)

    @property
    def window(self) -> int:
        """How many iterations are shown about; 1..MAX_WINDOW."""
        return self._window

    @window.setter
    def window(self, window: int) -> None:
        if not 1 <= window <= MAX_WINDOW:
            raise ValueError(
                f"window must be in 1..{MAX_WINDOW} iterations, got {window}: choose a part of "
                "the run"
            )
        self._window = window

    @property
    def provenance(self) -> str:
        """Where the traces are from, each source once."""
        return " · ".join(dict.fromkeys(replay.trace.label for replay in self.replays))

    @property
    def layers(self) -> tuple[list[Artist], list[Artist]]:
        """What changes when the window moves, and what changes at every call of `show`."""
        window = [artist for panel in self.panels for artist in panel.window]
        return window, [artist for panel in self.panels for artist in panel.marks]

    def complete(self, iteration: int | None) -> Figure:
        """Draw, describe and return the figure; without an iteration the window is the first."""
        self.show(0 if iteration is None else iteration)
        if iteration is None:
            for panel in self.panels:
                panel.unmark()
        return style.describe(self.figure, self.describe(marked=iteration is not None))

    def show(self, iteration: int, of: int = 0) -> bool:
        """Mark `iteration` of trace number `of`, and what the other ran when it started.

        Returns whether the window had to move: if not, only `marks` have changed.
        Raises ValueError for an iteration or trace that is not there.
        """
        if not 0 <= of < len(self.replays):
            raise ValueError(f"of must be in 0..{len(self.replays) - 1}, got {of}: count from 0")
        ran = self.replays[of].iteration(iteration)
        self.moment_s = ran.start_s
        places = [replay.at(ran.start_s) for replay in self.replays]
        self.marked = [
            replay.iteration(place) if runs else None
            for replay, (place, runs) in zip(self.replays, places)
        ]
        self.marked[of] = ran  # an iteration of no duration never runs at a moment
        span_s = self._span([place for place, _ in places])
        requests = self._pick_requests(span_s)
        shown = (span_s, tuple(requests))
        moved = shown != self._shown
        if moved:
            self._draw_window(span_s, requests)
            self._shown = shown
        for panel, marked in zip(self.panels, self.marked):
            panel.mark(self.moment_s, marked)
        return moved

    # Which part of the run is in the picture

    def _span(self, places: list[int]) -> tuple[float, float]:
        """The stretch of time to show: about `window` iterations of the busier trace.

        It moves in steps of half a window, so that it stands still while one walks through it.
        """
        starts_s, ends_s = [], []
        for replay, place in zip(self.replays, places):
            half = max(1, self.window // 2)
            first = max(0, place) // half * half - self.window // 4
            first = max(0, min(first, replay.num_iterations - self.window))
            if first > 0:
                starts_s.append(replay.start_s[first])
            if first + self.window < replay.num_iterations:
                ends_s.append(replay.end_s[first + self.window - 1])
        start_s = max(starts_s) if starts_s else min(map(_begin_s, self.replays))
        end_s = min(ends_s) if ends_s else max(replay.end_s[-1] for replay in self.replays)
        marked = [ran for ran in self.marked if ran is not None]  # these always fit in whole
        start_s = min(start_s, *(ran.start_s for ran in marked))
        return float(start_s), float(max(end_s, *(ran.end_s for ran in marked)))

    def _pick_requests(self, span_s: tuple[float, float]) -> np.ndarray:
        """The requests that get a row, the same in all panels, in order of their index."""
        num_rows = self.panels[0].num_rows
        if len(self._requests) <= num_rows:
            return self._requests
        ranked = [_rank(replay, span_s, ran) for replay, ran in zip(self.replays, self.marked)]
        requests, ranks = (np.concatenate(column) for column in zip(*ranked))
        order = np.lexsort((requests, ranks))
        _, first = np.unique(requests[order], return_index=True)  # each at its best rank
        best = np.sort(first)[:num_rows]
        return np.sort(requests[order][best])

    def _draw_window(self, span_s: tuple[float, float], requests: np.ndarray) -> None:
        highest = 1
        for panel, replay in zip(self.panels, self.replays):
            panel.draw(replay, span_s, requests)
            highest = max(highest, panel.highest)
        for panel in self.panels:
            panel.set_limits(span_s, highest)

    # The picture in words

    def sentences(self) -> list[str]:
        """For each trace, what it ran at the marked moment."""
        return [
            _say_ran(ran, replay) if ran else self._say_nothing(replay)
            for replay, ran in zip(self.replays, self.marked)
        ]

    def describe(self, marked: bool = True) -> str:
        """The whole picture: what is in it, and what is marked."""
        (start_s, end_s), requests = self._shown
        parts = [
            f"{name}, {style.format_count(replay.num_iterations)} iterations and "
            f"{style.format_count(len(replay.requests))} requests, {replay.trace.label}"
            for name, replay in zip(self.names, self.replays)
        ]
        shown = f"{len(requests)} of {style.format_count(len(self._requests))} requests"
        text = (
            f"Gantt chart of requests and iterations: {'; '.join(parts)}. It shows {shown} from "
            f"{_clock(start_s)} to {_clock(end_s)} s: waiting, prefill chunks and decodes, and "
            "below them the prefill and decode tokens of each iteration."
        )
        if not marked:
            return text
        said = (f"{name}: {what}" for name, what in zip(self.names, self.sentences()))
        return " ".join([text, *said])

    def _say_nothing(self, replay: Replay) -> str:
        place, _ = replay.at(self.moment_s)
        if place + 1 == replay.num_iterations:
            return f"done since {_clock(replay.end_s[-1])} s."
        return f"nothing runs until {_clock(replay.start_s[place + 1])} s."


class _Panel:
    """The two axes of one trace: rows of requests, and tokens of iterations below them."""

    def __init__(self, rows: Axes, tokens: Axes, name: str, num_rows: int):
        self.rows, self.tokens, self.num_rows = rows, tokens, num_rows
        self.highest = 1
        self.cells = {kind: _add_boxes(rows, kind) for kind in ("waits", "prefill", "decode")}
        self.bars = {kind: _add_boxes(tokens, kind) for kind in ("decode", "prefill")}
        (self.lives,) = rows.plot([], [], **_STANDING, zorder=0.9)  # under the boxes
        (self.budget,) = tokens.plot([], [], color=style.TEXT, linewidth=1.5, linestyle="--")
        self.frames = [_add_frame(ax) for ax in (rows, tokens)]
        self.moments = [_add_moment(ax) for ax in (rows, tokens)]
        rows.text(0, 1, name, va="bottom", **_header(rows, _NAME_AT, style.TITLE_SIZE))
        self.note = rows.text(0, 1, "", va="bottom", **_header(rows, _NOTE_AT, style.NOTE_SIZE))
        self.count = rows.text(
            0, 1, "", va="bottom", ha="right", linespacing=1.1,
            **_header(rows, _NOTE_AT, style.NOTE_SIZE, to_the_left=6),
        )  # fmt: skip
        axes = [axis for ax in (rows, tokens) for axis in (ax.xaxis, ax.yaxis)]
        boxes = [*self.cells.values(), *self.bars.values()]
        self.window = [*axes, self.lives, *boxes, self.budget, self.count]
        self.marks = [*self.moments, *self.frames, self.note]

    def draw(self, replay: Replay, span_s: tuple[float, float], requests: np.ndarray) -> None:
        """All that stands still while the mark moves within a window."""
        first = int(np.searchsorted(replay.end_s, span_s[0], "right"))
        stop = int(np.searchsorted(replay.start_s, span_s[1], "left"))
        for kind, cells in (
            ("prefill", replay.prefill_cells(first, stop, requests)),
            ("decode", replay.decode_cells(first, stop, requests)),
        ):
            y = np.searchsorted(requests, cells.request)
            start_s, end_s = replay.start_s[cells.iteration], replay.end_s[cells.iteration]
            _set_boxes(self.cells[kind], start_s, end_s, y - 0.4, y + 0.4, span_s)
        self._draw_lives(replay, span_s, requests)
        self._draw_tokens(replay, span_s, slice(first, stop))
        self.rows.set_yticks(range(len(requests)), _row_labels(replay, requests))
        num_active = max(len(_active(replay, span_s)), len(requests))
        rest = f"{len(requests)} of {style.format_count(num_active)} requests"
        shown = "request" if num_active == len(requests) else rest
        self.count.set_text(f"{shown}\n(prompt + output)")

    def _draw_lives(self, replay: Replay, span_s, requests: np.ndarray) -> None:
        """From arrival to the first iteration a grey box, from there to the last a dashed line."""
        mine = np.flatnonzero(np.isin(replay.requests, requests))
        y = np.searchsorted(requests, replay.requests[mine])
        starts_s = np.append(replay.start_s, replay.end_s[-1])[replay.first_iteration[mine]]
        arrivals_s = replay.arrival_s[mine]
        _set_boxes(self.cells["waits"], arrivals_s, starts_s, y - 0.2, y + 0.2, span_s)
        ends_s = replay.end_s[replay.last_iteration[mine]]
        gap = np.full(len(y), np.nan)  # parts one line from the next
        self.lives.set_data(
            np.column_stack((starts_s, ends_s, gap)).ravel(), np.column_stack((y, y, gap)).ravel()
        )

    def _draw_tokens(self, replay: Replay, span_s, part: slice) -> None:
        """Bars from half a token up: a log axis has no zero, and one token must be seen."""
        table = replay.trace.iterations
        decode = table["num_decode_tokens"][part].astype("f8")
        total = decode + table["num_prefill_tokens"][part]
        start_s, end_s = replay.start_s[part], replay.end_s[part]
        floor = np.full(len(decode), 0.5)
        _set_boxes(self.bars["decode"], start_s, end_s, floor, np.maximum(decode, 0.5), span_s)
        top = np.maximum(total, 0.5)
        has_prefill = total > decode
        bottom = np.maximum(decode, 0.5)
        columns = (column[has_prefill] for column in (start_s, end_s, bottom, top))
        _set_boxes(self.bars["prefill"], *columns, span_s)
        self.highest = max(1.0, top.max(initial=1.0))
        budget = _budget(replay)
        if budget is not None:
            self.budget.set_data(span_s, (budget, budget))
            self.highest = max(self.highest, budget)

    def set_limits(self, span_s: tuple[float, float], highest: float) -> None:
        for ax in (self.rows, self.tokens):
            ax.set_xlim(*span_s)
        powers = [4**power for power in range(12) if 4**power <= highest]
        self.tokens.set_yticks(powers[:: -(-len(powers) // 4)])
        self.tokens.set_ylim(0.5, 2 * highest)

    def mark(self, moment_s: float, ran: Ran | None) -> None:
        """A frame around the iteration and a line at the moment; only the line if none ran."""
        for line in self.moments:
            line.set_xdata([moment_s, moment_s])
            line.set_visible(True)
        for frame in self.frames:
            frame.set_visible(ran is not None)
            if ran is not None:
                frame.set_x(ran.start_s)
                frame.set_width(ran.end_s - ran.start_s)
        self.note.set_text("nothing runs" if ran is None else _note(ran))

    def unmark(self) -> None:
        for artist in (*self.moments, *self.frames):
            artist.set_visible(False)
        self.note.set_text("")


# Layout


def _lay_out(num_traces: int, num_rows: int) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with two axes for each trace, placed in inches once and for all.

    A layout engine would measure every text again at every redraw, and shift the picture.
    """
    row, between, title, tokens, head, foot = 0.24, 0.08, 0.54, 0.8, 0.4, 0.85
    rows = max(1.0, row * num_rows)
    panel = title + rows + between + tokens
    height = head + num_traces * panel + 0.1 * (num_traces - 1) + foot
    figure = style.new_figure(10, height)
    figure.set_layout_engine("none")
    left, width = 0.205, 0.78
    pairs, top = [], height - head
    for _ in range(num_traces):
        upper = top - title - rows
        lower = upper - between - tokens
        pairs.append(
            tuple(
                figure.add_axes((left, bottom / height, width, size / height))
                for bottom, size in ((upper, rows), (lower, tokens))
            )
        )
        top = lower - 0.1
    for index, (upper, lower) in enumerate(pairs):
        _dress(upper, lower, num_rows, is_last=index + 1 == num_traces)
    _add_legend(figure)
    return figure, pairs


def _dress(rows: Axes, tokens: Axes, num_rows: int, is_last: bool) -> None:
    style.dress_axes(rows)
    rows.grid(False, axis="y")
    rows.set_ylim(num_rows - 0.5, -0.5)
    rows.tick_params(labelbottom=False, length=0)
    style.dress_axes(tokens, "seconds since the run began" if is_last else "", "tokens")
    tokens.tick_params(labelbottom=is_last)
    tokens.set_yscale("log", base=4)
    tokens.minorticks_off()
    tokens.yaxis.set_major_formatter(lambda value, _: style.format_count(value))
    tokens.xaxis.set_major_formatter(lambda value, _: f"{value:.10g}")
    for ax in (rows, tokens):  # placed by hand, or every tick's label is measured for them
        ax.yaxis.set_label_coords(-0.09, 0.5)
        ax.xaxis.set_label_coords(0.5, -0.4)


_FACE = {"waits": style.GRID, "prefill": style.PREFILL, "decode": style.DECODE}
_STANDING = {"color": style.MUTED, "linewidth": 1, "linestyle": "--"}
_MEANING = {"waits": "waits", "prefill": "prefill chunk", "decode": "decode, 1 token a request"}


def _look(kind: str) -> dict:
    look = {"facecolor": _FACE[kind], "edgecolor": style.PAPER}
    if kind == "waits":
        look["edgecolor"] = style.MUTED
    if kind == "prefill":
        look |= {"hatch": style.PREFILL_HATCH, "hatchcolor": style.PAPER}
    return look


_NAME_AT, _NOTE_AT = 0.25, 0.04  # inches above the rows


def _header(rows: Axes, above: float, size: int, to_the_left: float = 0) -> dict:
    """Where and how to write above the rows: `above` in inches, `to_the_left` in points."""
    from matplotlib.transforms import ScaledTranslation

    shift = ScaledTranslation(-to_the_left / 72, above, rows.figure.dpi_scale_trans)
    return {"transform": rows.transAxes + shift, "fontsize": size, "color": style.TEXT}


def _add_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Patch(**_look(kind), label=text) for kind, text in _MEANING.items()]
    handles.append(Line2D([], [], **_STANDING, label="started, gets nothing"))
    figure.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(0.99, 1.0), ncols=4, frameon=False,
        fontsize=style.NOTE_SIZE, columnspacing=1.4, handlelength=1.6, borderaxespad=0.3,
    )  # fmt: skip


# Artists


def _add_boxes(ax: Axes, kind: str) -> PathPatch:
    from matplotlib.patches import PathPatch

    return ax.add_patch(PathPatch(path_of([], [], [], []), gid=kind, **_look(kind)))


def _set_boxes(patch: PathPatch, left, right, bottom, top, span_s) -> None:
    """Draw boxes as one path, cut off at `span_s`; thin ones without edges that hide them."""
    left, right = np.maximum(left, span_s[0]), np.minimum(right, span_s[1])
    seen = right > left
    left, right = left[seen], right[seen]
    patch.set_path(path_of(left, right, bottom[seen], top[seen]))
    typical = np.median(right - left) if len(left) else 0.0
    is_wide = typical > (span_s[1] - span_s[0]) / 150
    patch.set_linewidth(0.7 if is_wide else 0.15)


def _add_frame(ax: Axes) -> Artist:
    from matplotlib.patches import Rectangle

    look = {"facecolor": (0, 0, 0, 0.12), "edgecolor": style.TEXT, "linewidth": 1.8}
    return ax.add_patch(
        Rectangle((0, 0), 0, 1, transform=ax.get_xaxis_transform(), zorder=4, gid="frame", **look)
    )


def _add_moment(ax: Axes) -> Artist:
    return ax.axvline(0, color=style.TEXT, linewidth=1.2, linestyle=":", zorder=4, gid="moment")


# Which requests are worth a row


def _active(replay: Replay, span_s: tuple[float, float]) -> np.ndarray:
    """Rows of the requests that have arrived and are not done within a stretch of time."""
    done_s = replay.end_s[replay.last_iteration]
    return np.flatnonzero((replay.arrival_s < span_s[1]) & (done_s > span_s[0]))


def _rank(replay: Replay, span_s, ran: Ran | None) -> tuple[np.ndarray, np.ndarray]:
    """Active requests and their claim to a row, the lowest first.

    First those that the marked iteration prefills, then those prefilled nearest to the middle;
    of the others three that run, the latest first, for each one that waits, in order.
    """
    active = _active(replay, span_s)
    ranks = np.empty(len(active))
    first = int(np.searchsorted(replay.end_s, span_s[0], "right"))
    stop = int(np.searchsorted(replay.start_s, span_s[1], "left"))
    waits = replay.first_iteration[active] >= stop
    ranks[waits] = 1 + np.arange(waits.sum())
    ranks[~waits] = 1 + np.arange((~waits).sum())[::-1] / 3
    prefills = replay.prefill_cells(first, stop)
    distance = np.abs(prefills.iteration - (first + stop) / 2) / (stop - first + 1)
    rows = np.searchsorted(replay.requests[active], prefills.request)
    np.minimum.at(ranks, rows, distance)
    if ran is not None:
        ranks[np.isin(replay.requests[active], [request for request, _, _ in ran.prefills])] = -1
    return replay.requests[active], ranks


# Words


def _note(ran: Ran) -> str:
    return (
        f"iteration {style.format_count(ran.iteration)}: {_say_tokens(ran)}, "
        f"{style.format_seconds(ran.end_s - ran.start_s)}"
    )


def _say_tokens(ran: Ran) -> str:
    parts = [(ran.num_prefill_tokens, "prefill"), (len(ran.decodes), "decode")]
    return " + ".join(f"{style.format_count(n)} {kind}" for n, kind in parts if n) or "no tokens"


def _say_ran(ran: Ran, replay: Replay) -> str:
    """One iteration in words: when, for whom, who got nothing, and the worst gap so far."""
    chunks = [
        f"{request} ({style.format_count(num_tokens)} tokens"
        + (f" after {style.format_count(context)})" if context else ")")
        for request, num_tokens, context in ran.prefills
    ]
    total = style.format_count(ran.num_prefill_tokens)
    parts = [
        f"prefill of {total} tokens for {_say_requests(chunks)}" if chunks else "no prefill",
        f"one decode token for {_say_requests(ran.decodes)}" if ran.decodes else "no decode",
    ]
    text = (
        f"iteration {style.format_count(ran.iteration)} of 0 to "
        f"{style.format_count(replay.num_iterations - 1)}, at {_clock(ran.start_s)} s, took "
        f"{style.format_seconds(ran.end_s - ran.start_s)}: {'; '.join(parts)}. "
    )
    text += f"Waiting: {_say_requests(ran.waiting) if ran.waiting else 'nobody'}. "
    if ran.standing:
        text += f"Started, but got nothing: {_say_requests(ran.standing)}. "
    worst_s = ran.worst_gap_s
    return text + (
        f"Worst gap so far {style.format_seconds(worst_s)}." if worst_s == worst_s
        else "No gap between two tokens yet."
    )  # fmt: skip


def _say_requests(requests: Iterable) -> str:
    """"request 3", "requests 3, 4 and 5", "requests 3, 4, 5, 6, 7, 8 and 12 more"."""
    names = [str(request) for request in requests]
    if len(names) == 1:
        return f"request {names[0]}"
    left = len(names) - _NAMED
    if left > 1:
        names = [*names[:_NAMED], f"{style.format_count(left)} more"]
    return f"requests {', '.join(names[:-1])} and {names[-1]}"


def _clock(moment_s: float) -> str:
    """A moment of the run in seconds, to the millisecond."""
    return f"{moment_s:,.3f}"


def _row_labels(replay: Replay, requests: np.ndarray) -> list[str]:
    table = replay.trace.requests
    labels = []
    for request in requests.tolist():
        row = int(np.searchsorted(replay.requests, request))
        if row == len(replay.requests) or replay.requests[row] != request:
            labels.append(f"{request} (not here)")
            continue
        prompt, output = table["num_prompt_tokens"][row], table["num_output_tokens"][row]
        labels.append(f"{request} ({style.format_count(prompt)} + {style.format_count(output)})")
    return labels


def _budget(replay: Replay) -> int | None:
    budget = replay.trace.info.get("scheduler", {}).get("token_budget")
    return budget if budget and budget < NO_LIMIT else None


def _begin_s(replay: Replay) -> float:
    """When the run begins: its first iteration, or an arrival before it."""
    return min(replay.start_s[0], replay.arrival_s.min(initial=np.inf))


def _check_traces(traces: Sequence[Trace]) -> list[Replay]:
    if not 1 <= len(traces) <= 2:
        raise ValueError(f"traces must be 1 or 2, got {len(traces)}: choose which to compare")
    return [Replay(trace) for trace in traces]


def _check_names(names: Sequence[str] | None, replays: list[Replay]) -> list[str]:
    if names is None:
        return _own_names(replays)
    if len(names) != len(replays):
        raise ValueError(
            f"names must be as many as traces, {len(replays)}, got {len(names)}: give each one"
        )
    return list(names)


def _own_names(replays: list[Replay]) -> list[str]:
    """Each scheduler's name and limit; numbered if the record holds none."""
    short = {long: short for short, long in NAMES.items()}
    names = []
    for number, replay in enumerate(replays, 1):
        settings = replay.trace.info.get("scheduler", {})
        name = settings.get("name", f"trace {number}")
        name, budget = short.get(name, name), _budget(replay)
        if budget is not None:
            name += f", budget {style.format_count(budget)}"
        elif "chunk_size" in settings:
            name += f", chunks of {style.format_count(settings['chunk_size'])}"
        names.append(name)
    return names
