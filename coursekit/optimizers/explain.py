"""An `Answer` in sentences: what to set, what binds, what the neighbours would cost.

Everything said is read off the answer; nothing is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coursekit.optimizers.objective import UNITS, Limit

if TYPE_CHECKING:
    from coursekit.optimizers.answer import Answer, Neighbour


def explain(answer: Answer) -> str:
    """The answer in a few sentences."""
    parts = _infeasible(answer) if answer.chosen is None else _chosen(answer)
    return " ".join([*parts, answer.note]).strip()


def _chosen(answer: Answer) -> list[str]:
    size, table = answer.chosen, answer.table
    parts = [
        f"Set {say_knob(answer)} to {size:,}: {say_value(answer.objective, answer.value)}, the "
        f"most of the {int(table['feasible'].sum())} out of {len(table)} sizes that keep the SLO "
        f"({answer.label})."
    ]
    if answer.binding is None:
        parts.append(
            "No limit binds: no size would do better without the SLO. The closest limit is "
            f"{say_limit(answer.closest)}."
        )
    else:
        parts.append(f"What binds is {say_limit(answer.binding)}.")
    parts += [
        _neighbour(answer, neighbour)
        for neighbour in (answer.larger, answer.smaller)
        if neighbour is not None
    ]
    return parts


def _neighbour(answer: Answer, neighbour: Neighbour) -> str:
    size = f"{neighbour.size:,}"
    if neighbour.misses:
        return f"{size} would miss {_list([say_miss(limit) for limit in neighbour.misses])}."
    change = 100 * (neighbour.value / answer.value - 1) if answer.value else 0.0
    more_or_less = f"{abs(change):.1f}% {'more' if change > 0 else 'less'}"
    gives = "the same" if abs(change) < 0.05 else more_or_less
    if answer.objective == "capacity":  # each size keeps the SLO at its own rate
        return f"{size} gives {gives}."
    return f"{size} keeps the SLO and gives {gives}."


def _infeasible(answer: Answer) -> list[str]:
    nearest = answer.nearest
    needed = [
        f"{limit.name} <= {_seconds(limit.value_s)} instead of {_seconds(limit.limit_s)}"
        for limit in nearest.misses
    ]
    return [
        f"No {say_knob(answer)} of {len(answer.table)} keeps the SLO ({answer.label}). "
        f"{nearest.size:,} comes closest; it would keep {_list(needed)}."
    ]


def say_knob(answer: Answer) -> str:
    """What a size is, in words."""
    return answer.knob.replace("_", " ")


def say_value(objective: str, value: float) -> str:
    """The objective with its unit: 1,560 tokens per second."""
    return f"{float(f'{value:.4g}'):,.15g} {UNITS[objective]}"


def say_limit(limit: Limit) -> str:
    """A limit and its slack: ITL P99: 45.2 ms of 50 ms, 4.8 ms to spare."""
    return (
        f"{limit.name}: {_seconds(limit.value_s)} of {_seconds(limit.limit_s)}, "
        f"{_seconds(abs(limit.slack_s))} {'to spare' if limit.slack_s >= 0 else 'too much'}"
    )


def say_miss(limit: Limit) -> str:
    """By how much it is missed: ITL P99 by 12 ms (62 ms of 50 ms)."""
    return (
        f"{limit.name} by {_seconds(-limit.slack_s)} ({_seconds(limit.value_s)} of "
        f"{_seconds(limit.limit_s)})"
    )


def _seconds(seconds: float) -> str:
    """Three digits that count, in the fitting unit."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if abs(seconds) < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.4g} s"


def _list(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
