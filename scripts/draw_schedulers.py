"""Write docs/schedulers.md and its pictures: each policy's own words, and what it decides.

The words are the docstrings of coursekit/schedulers; the pictures are of one small workload.
Run it after changing either: python scripts/draw_schedulers.py
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from coursekit.plots.timeline import Schedule, follow_schedule, schedule_timeline  # noqa: E402
from coursekit.request import Request  # noqa: E402
from coursekit.schedulers import (  # noqa: E402
    DecodeFirst,
    InterleavedPrefillDecodeScheduler,
    OrcaMixed,
    PrefillFirst,
    PriorityAwareChunking,
    PriorityTokenBudget,
    Scheduler,
    StallFree,
    TokenBudget,
)

BUDGET = 64
MOST_TOKENS = 270  # the same token axis in all pictures
PICTURES = ROOT / "docs" / "images" / "schedulers"
PAGE = ROOT / "docs" / "schedulers.md"

SETTINGS: dict[str, tuple[str, Callable[[], Scheduler]]] = {
    "DecodeFirst": ("no token budget", DecodeFirst),
    "PrefillFirst": (f"token_budget={BUDGET}", lambda: PrefillFirst(BUDGET)),
    "OrcaMixed": ("no token budget", OrcaMixed),
    "StallFree": (f"token_budget={BUDGET}", lambda: StallFree(BUDGET)),
    "TokenBudget": (f"token_budget={BUDGET}", lambda: TokenBudget(BUDGET)),
    "PriorityTokenBudget": (f"token_budget={BUDGET}", lambda: PriorityTokenBudget(BUDGET)),
    "InterleavedPrefillDecodeScheduler": (
        "chunk_size=48",
        lambda: InterleavedPrefillDecodeScheduler(48, max_num_seqs=8),
    ),
    "PriorityAwareChunking": (
        f"token_budget={BUDGET}, chunks of 16 (high), 32 (medium), 48 (low)",
        lambda: PriorityAwareChunking(
            BUDGET, priority_chunk_sizes={"high": 16, "medium": 32, "low": 48}
        ),
    ),
}

INTRODUCTION = """\
# What each scheduler decides

<!-- Written by scripts/draw_schedulers.py from the docstrings in coursekit/schedulers. -->

A scheduler answers one question in every iteration: whose tokens are computed next? Each policy
below is one file in `coursekit/schedulers/`, and each picture shows its first twelve iterations
with the same five requests:

| request | prompt tokens | output tokens | arrives in iteration | class | priority |
| --- | --- | --- | --- | --- | --- |
{rows}

A number in a cell is how many of the request's tokens the iteration computes. Beneath, all
tokens of the iteration: the higher the bar, the longer the iteration takes, and the longer
everybody in it waits for the next token. A dashed cell is a request that has started and gets
nothing: a stall, if it was decoding. Behind a request's number stand its prompt and output
tokens. The iteration that ends a prompt also yields the first output token, so an output of
`n` tokens has `n - 1` decode cells. `TokenBudget` and `StallFree` agree here; they part when the
budget or the KV blocks run out while requests decode: then `StallFree` serves decodes first by
rule, and `TokenBudget` serves in order of admission.
"""


def workload() -> list[Request]:
    """Two short requests decode; a long prompt and two short ones arrive."""
    return [
        Request(0, 0.0, 12, 10, priority=0, priority_class="medium"),
        Request(1, 0.0, 16, 6, priority=0, priority_class="high"),
        Request(2, 2.0, 170, 4, priority=1, priority_class="low"),
        Request(3, 2.0, 20, 5, priority=0, priority_class="high"),
        Request(4, 4.0, 30, 4, priority=0, priority_class="medium"),
    ]


def schedules() -> dict[str, Schedule]:
    """Each policy's first twelve iterations."""
    return {name: follow_schedule(make(), workload()) for name, (_, make) in SETTINGS.items()}


def page() -> str:
    """The text of docs/schedulers.md."""
    rows = "\n".join(
        f"| {r.index} | {r.num_prompt_tokens} | {r.max_tokens} | {r.arrival_s:.0f} | "
        f"{r.priority_class} | {r.priority} |"
        for r in workload()
    )
    sections = [INTRODUCTION.format(rows=rows)]
    for name, schedule in schedules().items():
        settings, make = SETTINGS[name]
        words = inspect.getdoc(inspect.getmodule(type(make())))
        sections.append(
            f"## {name}\n\n{words}\n\nThe picture: {settings}.\n\n"
            f"![{schedule_timeline(schedule).alt_text}](images/schedulers/{name}.png)\n"
        )
    return "\n".join(sections)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, schedule in schedules().items():
        picture = PICTURES / f"{name}.png"
        picture.write_bytes(schedule_timeline(schedule, MOST_TOKENS).png())
        print(f"{picture.relative_to(ROOT)}  {picture.stat().st_size // 1024} kB")
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))


if __name__ == "__main__":
    main()
