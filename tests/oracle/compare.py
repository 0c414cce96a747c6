"""Does our scheduler decide as vLLM does? If not: the case, smaller, and both schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from itertools import islice
from typing import Any

from tests.oracle.ours import SchedulerMaker, make_scheduler, our_steps
from tests.oracle.schedule import Step, first_difference, side_by_side
from tests.oracle.strategies import Arrival, Case
from tests.oracle.vllm_driver import steps_of_vllm

MOST_STEPS = 100_000


def compare(case: Case, make: SchedulerMaker = make_scheduler) -> tuple[list[Step], str | None]:
    """vLLM's schedule, and None or what is wrong with ours: a table and the error, if any."""
    theirs = list(islice(steps_of_vllm(case), MOST_STEPS))
    ours, error = _collect(our_steps(case, make), len(theirs) + 1)
    if not error and first_difference(theirs, ours) is None:
        return theirs, None
    return theirs, side_by_side(case, theirs, ours) + error


def _collect(steps: Iterator[Step], most: int) -> tuple[list[Step], str]:
    """The steps, one more than vLLM took being enough, and the error that ended them."""
    collected: list[Step] = []
    try:
        for step in islice(steps, most):
            collected.append(step)
    except Exception as error:  # a scheduler with a fault may raise anything
        return collected, f"\nours raised {type(error).__name__}: {error}"
    return collected, ""


def shrink(case: Case, fails: Callable[[Case], bool], most_trials: int = 2000) -> Case:
    """A smaller case that still fails: no request less and no number lower does."""
    num_trials = 0
    while True:
        for smaller in _smaller_cases(case):
            num_trials += 1
            if num_trials > most_trials:
                return case
            if smaller.is_possible() and fails(smaller):
                case = smaller
                break
        else:
            return case


def _smaller_cases(case: Case) -> Iterator[Case]:
    """Cases one notch simpler than `case`, the boldest first."""
    arrivals = case.arrivals
    for place in range(len(arrivals) if len(arrivals) > 1 else 0):
        yield replace(case, arrivals=arrivals[:place] + arrivals[place + 1 :])
    for settings in _lower(case.settings, ("block_size", "max_model_len")):
        yield replace(case, settings=settings)
    for place, arrival in enumerate(arrivals):
        for lower in _lower(arrival, ()):
            changed = (*arrivals[:place], lower, *arrivals[place + 1 :])
            smaller = replace(case, arrivals=tuple(sorted(changed, key=lambda a: a.arrival_step)))
            # what depends on a full cache needs a smaller cache for a shorter request
            num_spare = (_length(arrival) - _length(lower)) // case.settings.block_size
            if num_spare > 0:
                num_blocks = case.settings.num_blocks - num_spare
                yield replace(smaller, settings=replace(case.settings, num_blocks=num_blocks))
            yield smaller


def _length(arrival: Arrival) -> int:
    return arrival.num_prompt_tokens + arrival.max_tokens


def _lower(thing: Any, fixed: tuple[str, ...]) -> Iterator[Any]:
    """Copies of a dataclass with one number lower, or one switch at its default."""
    for field in fields(thing):
        value = getattr(thing, field.name)
        if field.name in fixed:
            continue
        if isinstance(value, bool):
            values = {field.default} - {value}
        else:
            values = {low for low in (0, 1, value // 2, value - 1) if 0 <= low < value}
        for low in sorted(values):
            yield replace(thing, **{field.name: low})
