"""What a controller sees before each iteration, and what it learns after it. Plain values only.

`look` reads them off a scheduler of `coursekit.schedulers`, in the order in which it would serve
its prompts, and no further than a whole budget reaches.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import NamedTuple, Protocol

from coursekit.cost.base import Chunks


class Prompt(NamedTuple):
    """A prompt that could run next: `num_tokens` it could take, behind `context` computed ones."""

    num_tokens: int
    context: int


class RanStep(NamedTuple):
    """The iteration before: what it took and what it ran, as `CostModel.iteration_s` counts.

    token_budget: what it was allowed; a step that has used it all was limited by it.
    """

    seconds: float
    num_decodes: int
    decode_context: int
    chunks: Chunks
    token_budget: int

    @property
    def num_tokens(self) -> int:
        return self.num_decodes + sum(chunk[1] for chunk in self.chunks)

    @property
    def num_prefill_tokens(self) -> int:
        """Tokens of chunks longer than one: a chunk of one token costs what a decode does."""
        return sum(chunk[1] for chunk in self.chunks if chunk[1] > 1)


class SystemState(NamedTuple):
    """An engine between two iterations.

    num_decodes, decode_context: requests that take one token next, and the tokens before it,
    summed; prompts: those that could run, in order; num_waiting: requests not admitted yet.
    min_budget, max_budget: what the next budget must lie in; min_budget holds a token for each
    decode and some for prompts. token_budget: the budget before; last: None before the first.
    """

    num_decodes: int
    decode_context: int
    prompts: tuple[Prompt, ...]
    num_waiting: int
    min_budget: int
    max_budget: int
    token_budget: int
    last: RanStep | None = None

    def clamp(self, token_budget: int) -> int:
        """The allowed budget that is nearest."""
        return max(self.min_budget, min(token_budget, self.max_budget))


class Controller(Protocol):
    """Chooses budgets. `choose` changes nothing; what is learned is learned in `observe`."""

    def choose(self, state: SystemState) -> int:
        """The next token budget, in state.min_budget..state.max_budget."""
        ...

    def observe(self, step: RanStep) -> None:
        """Learn from an iteration that has run."""
        ...


def look(
    policy, min_prefill_tokens: int, max_budget: int, token_budget: int, last: RanStep | None
) -> SystemState:
    """The state of a scheduler between two iterations; see `SystemState`.

    min_prefill_tokens: room for prompts in min_budget, beside the decodes.
    """
    num_decodes, decode_context = policy.group.size, policy.group.context
    prompts, num_tokens = [], 0
    num_seats = max(0, policy.max_num_seqs - len(policy.running))
    for request in chain(policy.catching_up, islice(policy.waiting, num_seats)):
        if num_tokens >= max_budget:
            break
        # where prefixes are cached, or budgets were short, decodes are not in the group
        if request.num_output_tokens and request.num_missing_tokens == 1:
            num_decodes += 1
            decode_context += request.num_computed_tokens
            continue
        prompt = _prompt(policy, request)
        prompts.append(prompt)
        num_tokens += prompt.num_tokens
    tile = getattr(policy, "tile_size", 1)
    least = -(-(num_decodes + min_prefill_tokens) // tile) * tile
    return SystemState(
        num_decodes, decode_context, tuple(prompts), len(policy.waiting),
        min(least, max_budget), max_budget, token_budget, last,
    )  # fmt: skip


def _prompt(policy, request) -> Prompt:
    context, missing = request.num_computed_tokens, request.num_missing_tokens
    if request not in policy.running and policy.kv.caches_prefixes:
        context = policy.kv.num_cached_tokens(request)
        missing -= context
    if cap := getattr(policy, "long_prefill_token_threshold", 0):
        missing = min(missing, cap)
    elif hasattr(policy, "get_chunk_size"):
        missing = min(missing, policy.get_chunk_size(request))
    return Prompt(missing, context)
