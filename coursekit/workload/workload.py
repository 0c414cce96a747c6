"""A workload: the columns that say which requests arrive when and how long they are.

It is data, checked once and sorted by arrival. It doesn't run: `source` does the sending.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from coursekit.workload.checks import column, first_bad, integers, token_counts
from coursekit.workload.source import OpenSource


class Workload:
    """Requests by column, sorted by arrival; equal arrivals keep the order they were given in.

    arrival_s: seconds, finite, >= 0, float64 (n,). num_prompt_tokens, num_output_tokens:
    integers >= 1, int64 (n,). priority: lower goes first, int64 (n,), 0 unless given.
    priority_class: names, object (n,), "medium" unless given. prompt_token_ids: a list of n
    lists, each as long as its prompt, or None. The columns are copies.

    Raises ValueError naming the row (0-based, before sorting), the value and the remedy.
    """

    def __init__(
        self,
        arrival_s: Sequence[float],
        num_prompt_tokens: Sequence[int],
        num_output_tokens: Sequence[int],
        priority: Sequence[int] | None = None,
        priority_class: Sequence[str] | None = None,
        prompt_token_ids: Sequence[Sequence[int]] | None = None,
    ):
        given = {
            "arrival_s": arrival_s,
            "num_prompt_tokens": num_prompt_tokens,
            "num_output_tokens": num_output_tokens,
            "priority": priority,
            "priority_class": priority_class,
            "prompt_token_ids": prompt_token_ids,
        }
        num_requests = _common_length(given)
        arrivals = _arrivals(arrival_s)
        order = np.argsort(arrivals, kind="stable")
        self.arrival_s = arrivals[order]
        self.num_prompt_tokens = token_counts("num_prompt_tokens", num_prompt_tokens)[order]
        self.num_output_tokens = token_counts("num_output_tokens", num_output_tokens)[order]
        if priority is None:
            self.priority = np.zeros(num_requests, np.int64)
        else:
            self.priority = integers("priority", priority)[order]
        self.priority_class = np.full(num_requests, "medium", object)
        if priority_class is not None:
            self.priority_class[:] = _names(priority_class)
            self.priority_class = self.priority_class[order]
        self.prompt_token_ids = None
        if prompt_token_ids is not None:
            _check_token_ids(prompt_token_ids, num_prompt_tokens)
            self.prompt_token_ids = [list(prompt_token_ids[row]) for row in order.tolist()]

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __repr__(self) -> str:
        if not len(self):
            return "Workload(0 requests)"
        return (
            f"Workload({len(self)} requests, {self.arrival_s[0]:g} to {self.arrival_s[-1]:g} s, "
            f"{self.num_prompt_tokens.sum()} prompt and {self.num_output_tokens.sum()} output "
            "tokens)"
        )

    def source(self) -> OpenSource:
        """A fresh source that sends every request at its arrival, whatever the engine does."""
        return OpenSource(self)


def _common_length(columns: dict[str, Sequence | None]) -> int:
    lengths = {name: len(values) for name, values in columns.items() if values is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"columns must be equally long, got {found}: pass one value a request")
    return lengths["arrival_s"]


def _arrivals(values: Sequence[float]) -> np.ndarray:
    arrivals = column("arrival_s", values)
    try:
        arrivals = arrivals.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"arrival_s must hold seconds, got {arrivals.dtype}: convert it") from None
    good = (arrivals >= 0) & (arrivals < np.inf)
    first_bad("arrival_s", arrivals, good, "finite and >= 0", "count seconds from the start")
    return arrivals


def _names(values: Sequence[str]) -> list[str]:
    for row, name in enumerate(values):
        if not isinstance(name, str):
            raise ValueError(
                f'priority_class must be a name, got {name!r} in row {row}: pass "medium", say'
            )
    return [str(name) for name in values]


def _check_token_ids(token_ids: Sequence[Sequence[int]], num_prompt_tokens: Sequence[int]) -> None:
    for row, (ids, length) in enumerate(zip(token_ids, num_prompt_tokens, strict=True)):
        if len(ids) != length:
            raise ValueError(
                f"prompt_token_ids must be as long as the prompt, got {len(ids)} ids for "
                f"{length} tokens in row {row}: correct num_prompt_tokens"
            )
