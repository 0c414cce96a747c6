"""The cases of the oracle: small workloads and settings that make schedulers disagree.

One recipe, `make_case`, asks for integers and builds a case of them. Hypothesis answers in
`make test`, where a failing case is to be shrunk; a seeded generator, faster, answers in
`make oracle`. The first answer to every question is the simplest one, toward which Hypothesis
shrinks.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

GENERATED_TOKEN = 5  # what both schedulers are told that the model has sampled, every time

Pick = Callable[[int, int], int]  # (low, high) -> an integer between them, both included


@dataclass(frozen=True, slots=True)
class Settings:
    """A scheduler's settings, in the words of `TokenBudget`.

    num_blocks: usable KV blocks. odd_step_budget: the budget of every second step, as a
    controller might set it; 0: the same.
    """

    token_budget: int
    max_num_seqs: int
    num_blocks: int
    block_size: int
    max_model_len: int
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    by_priority: bool = False
    reserve_full_isl: bool = True
    caches_prefixes: bool = False
    odd_step_budget: int = 0

    def budget_at(self, step: int) -> int:
        """The token budget of a step, counted from 0."""
        return self.odd_step_budget if step % 2 and self.odd_step_budget else self.token_budget


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request: `num_shared` times token `stem`, then `tail` up to its length."""

    arrival_step: int
    num_prompt_tokens: int
    max_tokens: int
    priority: int = 0
    stem: int = 0
    num_shared: int = 0
    tail: int = GENERATED_TOKEN

    @property
    def token_ids(self) -> list[int]:
        num_shared = min(self.num_shared, self.num_prompt_tokens)
        return [self.stem] * num_shared + [self.tail] * (self.num_prompt_tokens - num_shared)


@dataclass(frozen=True, slots=True)
class Case:
    """Settings, and requests in order of arrival; a request's index is its place."""

    settings: Settings
    arrivals: tuple[Arrival, ...]

    def is_possible(self) -> bool:
        """Whether every request can finish, and vLLM accepts the settings."""
        s = self.settings
        longest = max(a.num_prompt_tokens + a.max_tokens for a in self.arrivals)
        shortest = min(min(a.num_prompt_tokens, a.max_tokens) for a in self.arrivals)
        return (
            min(shortest, s.max_num_seqs) >= 1
            and s.odd_step_budget <= s.token_budget
            and longest <= s.max_model_len
            and longest - 1 <= s.num_blocks * s.block_size
            and s.max_num_seqs <= s.token_budget
            and (s.enable_chunked_prefill or s.max_model_len <= s.token_budget)
        )


def make_case(pick: Pick) -> Case:
    """A possible case, made of the integers that `pick` gives."""
    caches_prefixes = bool(pick(0, 1))
    max_model_len = (64, 256)[pick(0, 1)]
    arrivals = [_make_arrival(pick, max_model_len) for _ in range(pick(1, 14))]
    arrivals.sort(key=lambda arrival: arrival.arrival_step)
    block_size = (4, 1, 8, 16)[pick(0, 3)]
    longest = max(a.num_prompt_tokens + a.max_tokens for a in arrivals)
    num_blocks = -(-(longest - 1) // block_size) + (1000, 0, 1, 3, 10)[pick(0, 4)]
    max_num_seqs = pick(1, 12)
    chunked = pick(0, 4) < 4
    budget = pick(1, (32, 256)[pick(0, 1)]) if chunked else max_model_len + pick(0, 64)
    budget = max(budget, max_num_seqs)
    settings = Settings(
        token_budget=budget,
        max_num_seqs=max_num_seqs,
        num_blocks=num_blocks,
        block_size=block_size,
        max_model_len=max_model_len,
        long_prefill_token_threshold=pick(1, 40) if pick(0, 1) else 0,
        enable_chunked_prefill=chunked,
        by_priority=bool(pick(0, 1)),
        reserve_full_isl=not pick(0, 1),
        caches_prefixes=caches_prefixes,
        odd_step_budget=pick(1, budget) if pick(0, 2) == 2 else 0,
    )
    return Case(settings, tuple(arrivals))


def _make_arrival(pick: Pick, max_model_len: int) -> Arrival:
    most = (8, max_model_len * 3 // 4)[pick(0, 1)]
    num_prompt_tokens = pick(1, most)
    return Arrival(
        arrival_step=pick(0, 40) if pick(0, 1) else 0,
        num_prompt_tokens=num_prompt_tokens,
        max_tokens=(1, 2, pick(1, max_model_len // 4))[pick(0, 2)],
        priority=pick(0, 3),
        stem=pick(0, 1),
        num_shared=pick(0, num_prompt_tokens),
        tail=GENERATED_TOKEN + pick(0, 1),
    )


@st.composite
def cases(draw) -> Case:
    """Hypothesis's strategy of all cases."""
    return make_case(lambda low, high: draw(st.integers(low, high)))


def random_case(seed: int | str) -> Case:
    """The case that belongs to a seed."""
    return make_case(random.Random(seed).randint)
