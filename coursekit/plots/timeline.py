"""A schedule as a table: a row for each request, a column for each iteration.

A cell says how many of a request's tokens an iteration computes. There is no clock here: the
picture is of what a policy decides, not of how long it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from coursekit.plots import style
from coursekit.schedulers.base import NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from coursekit.request import Request
    from coursekit.schedulers import Scheduler


class Cell(NamedTuple):
    """A request in an iteration: kind is "prefill", "decode", "waits" or "stands still"."""

    kind: str
    num_tokens: int = 0


@dataclass(slots=True)
class Schedule:
    """What a scheduler decided: a row of cells for each request; None: not there (any more)."""

    policy: str
    token_budget: int | None
    requests: list[Request]
    rows: list[list[Cell | None]]  # (num_requests, num_iterations)

    def num_tokens(self, iteration: int, kind: str) -> int:
        """Tokens of a kind that an iteration computes."""
        cells = [row[iteration] for row in self.rows]
        return sum(cell.num_tokens for cell in cells if cell and cell.kind == kind)


def follow_schedule(
    scheduler: Scheduler, requests: Iterable[Request], num_iterations: int = 12
) -> Schedule:
    """Run `scheduler` for some iterations and write down what each request gets.

    An iteration counts as a second, so a request arrives in iteration `arrival_s`. The scheduler
    must be new. Raises ValueError for num_iterations < 1 or without requests.
    """
    requests = sorted(requests, key=lambda request: request.arrival_s)
    if num_iterations < 1:
        raise ValueError(f"num_iterations must be >= 1, got {num_iterations}")
    if not requests:
        raise ValueError("a schedule needs at least 1 request, got none")
    rows: list[list[Cell | None]] = [[] for _ in requests]
    coming = list(requests)
    for iteration in range(num_iterations):
        while coming and coming[0].arrival_s <= iteration:
            scheduler.add_request(coming.pop(0))
        batch = scheduler.schedule()
        cells = _cells(scheduler, batch)
        for request, row in zip(requests, rows):
            row.append(cells.get(request))
        scheduler.update(batch)
    budget = scheduler.token_budget if scheduler.token_budget < NO_LIMIT else None
    return Schedule(type(scheduler).__name__, budget, requests, rows)


def _cells(scheduler: Scheduler, batch) -> dict[Request, Cell]:
    cells = dict.fromkeys(scheduler.waiting, Cell("waits"))
    for request in scheduler.running:
        decodes = request.entry_clock >= 0 and batch.num_decodes
        cells[request] = Cell("decode", 1) if decodes else Cell("stands still")
    for request, num_tokens, context in batch.chunks:
        is_decode = num_tokens == 1 and request.num_output_tokens and not request.num_missing_tokens
        cells[request] = Cell("decode" if is_decode else "prefill", num_tokens)
    return cells


def schedule_timeline(schedule: Schedule, most_tokens: int | None = None) -> Figure:
    """The table of a schedule, and beneath it how many tokens each iteration computes.

    most_tokens: where the token axis ends, for pictures to be compared; None fits this one.
    """
    num_rows = len(schedule.rows)
    figure = style.new_figure(10, 3.35 + 0.46 * num_rows)
    table, bars = figure.subplots(
        2, sharex=True, gridspec_kw={"height_ratios": [0.46 * num_rows, 1.7]}
    )
    _draw_table(table, schedule)
    _draw_tokens(bars, schedule, most_tokens)
    style.label_provenance(figure, "simulated (decisions only, no clock)")
    return style.describe(figure, describe_schedule(schedule))


def describe_schedule(schedule: Schedule) -> str:
    """The picture in words: for each request, what it gets from iteration to iteration."""
    lines = []
    for request, row in zip(schedule.requests, schedule.rows):
        words = [
            f"{iteration}: {cell.num_tokens or ''} {cell.kind}".replace("  ", " ")
            for iteration, cell in enumerate(row) if cell
        ]  # fmt: skip
        lines.append(f"{_name(request)}: {', '.join(_merge(words)) or 'not there yet'}.")
    return f"Schedule of {schedule.policy} by iteration. " + " ".join(lines)


def _merge(words: list[str]) -> list[str]:
    """Join neighbours that say the same: "3: 1 decode", "4: 1 decode" -> "3 to 4: 1 decode"."""
    merged: list[tuple[str, str, str]] = []
    for word in words:
        iteration, what = word.split(": ")
        if merged and merged[-1][2] == what:
            merged[-1] = (merged[-1][0], iteration, what)
        else:
            merged.append((iteration, iteration, what))
    return [
        f"{first}: {what}" if first == last else f"{first} to {last}: {what}"
        for first, last, what in merged
    ]


def _name(request: Request) -> str:
    return f"request {request.index} ({request.num_prompt_tokens} + {request.max_tokens})"


_ON_PAPER = {"boxstyle": "round,pad=0.1", "facecolor": style.PAPER, "edgecolor": "none"}
_FACE = {
    "prefill": style.PREFILL, "decode": style.DECODE, "waits": style.GRID,
    "stands still": style.PAPER,
}  # fmt: skip
_MEANING = {
    "prefill": "prefill chunk, tokens", "decode": "decode, 1 token", "waits": "waits",
    "stands still": "started, gets nothing",
}  # fmt: skip


def _draw_table(ax: Axes, schedule: Schedule) -> None:
    from matplotlib.patches import Patch

    for y, row in enumerate(schedule.rows):
        for x, cell in enumerate(row):
            if cell:
                _draw_cell(ax, x, y, cell)
    num_iterations = len(schedule.rows[0])
    style.dress_axes(ax, title=schedule.policy)
    ax.grid(False)
    ax.set_xlim(-0.5, num_iterations - 0.5)
    ax.set_ylim(len(schedule.rows) - 0.5, -0.5)
    ax.set_yticks(range(len(schedule.rows)), [_name(request) for request in schedule.requests])
    ax.tick_params(length=0, labelbottom=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    # hidden patches only for the legend, in the order of the meanings
    handles = [Patch(**_look(kind), label=text) for kind, text in _MEANING.items()]
    ax.legend(
        handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.13), ncols=4, frameon=False,
        fontsize=style.NOTE_SIZE, borderaxespad=0, columnspacing=1.2, handlelength=1.5,
    )  # fmt: skip


def _look(kind: str) -> dict:
    look = {"facecolor": _FACE[kind], "edgecolor": style.MUTED, "linewidth": 0.8}
    if kind == "prefill":
        look |= {"hatch": style.PREFILL_HATCH, "hatchcolor": style.PAPER}
    if kind == "stands still":
        look |= {"linestyle": "--", "linewidth": 1.5}
    return look


def _draw_cell(ax: Axes, x: int, y: int, cell: Cell) -> None:
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, **_look(cell.kind)))
    if not cell.num_tokens:
        return
    is_prefill = cell.kind == "prefill"
    ax.text(
        x, y, str(cell.num_tokens), ha="center", va="center", fontsize=style.TICK_SIZE,
        fontweight="bold", color=style.TEXT if is_prefill else style.PAPER,
        bbox=_ON_PAPER if is_prefill else None,
    )  # fmt: skip


def _draw_tokens(ax: Axes, schedule: Schedule, most_tokens: int | None) -> None:
    iterations = range(len(schedule.rows[0]))
    decode = [schedule.num_tokens(i, "decode") for i in iterations]
    prefill = [schedule.num_tokens(i, "prefill") for i in iterations]
    common = {"width": 0.92, "edgecolor": style.PAPER, "linewidth": 0.6}
    ax.bar(iterations, decode, color=style.DECODE, **common)
    ax.bar(
        iterations, prefill, bottom=decode, color=style.PREFILL,
        hatch=style.PREFILL_HATCH, hatchcolor=style.PAPER, **common,
    )  # fmt: skip
    style.dress_axes(ax, "iteration", "tokens")
    ax.grid(False, axis="x")
    ax.set_xticks(list(iterations))
    totals = [sum(both) for both in zip(decode, prefill)]
    for x, total in enumerate(totals):
        ax.annotate(
            str(total or ""), (x, total), (0, 2), textcoords="offset points",
            ha="center", va="bottom", fontsize=style.TICK_SIZE, bbox=_ON_PAPER,
        )  # fmt: skip
    budget = schedule.token_budget
    if budget:
        ax.axhline(budget, color=style.TEXT, linewidth=1.5, linestyle="--")
        ax.annotate(
            f"budget {budget}", (1.0, budget), (0, 3), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="bottom", fontsize=style.NOTE_SIZE,
        )  # fmt: skip
    ax.set_ylim(0, most_tokens or 1.35 * max(*totals, budget or 0))
