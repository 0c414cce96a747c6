"""What the oracle compares: schedules, step by step, and how two of them are shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.oracle.strategies import Case


@dataclass(frozen=True, slots=True)
class Step:
    """One decision, and how many KV blocks are free after it.

    chunks: by request, its computed tokens and how many more it runs; preempted: who lost its
    blocks.
    """

    chunks: dict[int, tuple[int, int]]
    preempted: tuple[int, ...]
    num_free: int

    @property
    def num_tokens(self) -> int:
        """All tokens of the iteration."""
        return sum(num_tokens for _, num_tokens in self.chunks.values())

    def __str__(self) -> str:
        words = [f"{index}:{done}+{num}" for index, (done, num) in sorted(self.chunks.items())]
        words += [f"-{index}" for index in self.preempted]
        return f"{' '.join(words) or 'nothing'} | {self.num_free}"


def first_difference(theirs: list[Step], ours: list[Step]) -> int | None:
    """The first step that differs, None if none does."""
    for place, (their_step, our_step) in enumerate(zip(theirs, ours, strict=False)):
        if their_step != our_step:
            return place
    return None if len(theirs) == len(ours) else min(len(theirs), len(ours))


def side_by_side(case: Case, theirs: list[Step], ours: list[Step], num_after: int = 2) -> str:
    """The case, and both schedules as a table up to a little after the first difference."""
    differing = first_difference(theirs, ours)
    last = max(len(theirs), len(ours)) if differing is None else differing + 1 + num_after
    rows = [
        ("", "step", "vLLM", "ours"),
        *(
            (">>" if step == differing else "", str(step), _text(theirs, step), _text(ours, step))
            for step in range(min(last, max(len(theirs), len(ours))))
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    legend = "(request:computed+tokens of this step, -request is preempted, | free KV blocks)"
    return "\n".join([*_describe(case), legend, *(row.rstrip() for row in table)])


def _text(steps: list[Step], place: int) -> str:
    return str(steps[place]) if place < len(steps) else "(has ended)"


def _describe(case: Case) -> list[str]:
    arrivals = [f"  {index}: {arrival}" for index, arrival in enumerate(case.arrivals)]
    return [str(case.settings), *arrivals]


def exercised(case: Case, steps: list[Step]) -> Counter:
    """What a case put to the test: 1 for each setting, and how often things happened."""
    settings, hits, known = case.settings, 0, set()
    for step in steps:
        known.difference_update(step.preempted)
        hits += sum(step.chunks[index][0] > 0 for index in step.chunks.keys() - known)
        known.update(step.chunks)
    num_preempted = sum(len(step.preempted) for step in steps)
    return Counter(
        {
            "cases": 1,
            "policy priority": settings.by_priority,
            "prefix caching": settings.caches_prefixes,
            "chunked prefill off": not settings.enable_chunked_prefill,
            "long_prefill_token_threshold": settings.long_prefill_token_threshold > 0,
            "scheduler_reserve_full_isl off": not settings.reserve_full_isl,
            "a budget that changes": settings.odd_step_budget > 0,
            "cases with a preemption": num_preempted > 0,
            "cases with a prefix cache hit": hits > 0,
            "steps": len(steps),
            "preemptions": num_preempted,
            "admissions with a hit": hits,
        }
    )
