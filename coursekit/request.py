"""One request: what was asked for, and how far it has come.

There is no prefill phase and no decode phase (vLLM, `v1/core/sched/scheduler.py`). A request
has tokens, prompt and generated, and some of them are computed; it is scheduled until computed
catches up, and each time it does it gets one token more.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import nan


class Request:
    """A request on its way through a scheduler.

    index: its place in the workload, 0-based; arrival_s: seconds; num_prompt_tokens and
    max_tokens (how many it generates): >= 1. priority: lower goes first. priority_class: a name
    such as "high", used by class-aware policies. prompt_token_ids: needed only for prefix
    caching; generated tokens are appended to them by whoever samples.

    num_computed_tokens, num_output_tokens and num_blocks are its state; while the request is
    in a `DecodeGroup` they stand still and the group's clock tells how far it is.
    """

    __slots__ = (
        "index", "arrival_s", "num_prompt_tokens", "max_tokens", "priority", "priority_class",
        "token_ids", "num_computed_tokens", "num_output_tokens", "num_blocks", "entry_clock",
        "running_order", "num_preemptions", "first_scheduled_s", "first_token_s",
        "num_cached_tokens",
    )  # fmt: skip

    def __init__(
        self,
        index: int,
        arrival_s: float,
        num_prompt_tokens: int,
        max_tokens: int,
        priority: int = 0,
        priority_class: str = "medium",
        prompt_token_ids: Sequence[int] | None = None,
    ):
        if num_prompt_tokens < 1:
            raise ValueError(f"num_prompt_tokens must be >= 1, got {num_prompt_tokens}")
        if max_tokens < 1:
            raise ValueError(f"max_tokens must be >= 1, got {max_tokens}")
        self.index = index
        self.arrival_s = arrival_s
        self.num_prompt_tokens = num_prompt_tokens
        self.max_tokens = max_tokens
        self.priority = priority
        self.priority_class = priority_class
        self.token_ids = None if prompt_token_ids is None else list(prompt_token_ids)
        self.num_computed_tokens = 0
        self.num_output_tokens = 0
        self.num_blocks = 0
        self.entry_clock = -1  # the group's clock when it entered, -1 outside the group
        self.running_order = -1  # grows with each admission, -1 while waiting
        self.num_preemptions = 0
        self.num_cached_tokens = 0  # found in the prefix cache at first admission
        self.first_scheduled_s = nan
        self.first_token_s = nan

    @property
    def num_tokens(self) -> int:
        """Tokens known so far: prompt and generated."""
        return self.num_prompt_tokens + self.num_output_tokens

    @property
    def num_missing_tokens(self) -> int:
        """Tokens known but not computed."""
        return self.num_prompt_tokens + self.num_output_tokens - self.num_computed_tokens

    def __repr__(self) -> str:
        return (
            f"Request({self.index}, {self.num_computed_tokens}/{self.num_tokens} tokens, "
            f"{self.num_output_tokens}/{self.max_tokens} generated)"
        )
