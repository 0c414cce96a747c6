"""What to send: a mix of kinds of requests, and prompts of exactly the lengths asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from coursekit.workload import Workload, poisson
from coursekit.workload.checks import count

# Token ids that any vocabulary has: above the special ones, which stand first, and below the
# size of the smallest in use (Llama 2's 32,000).
TOKEN_IDS = (1_000, 32_000)


def mixed_lengths(
    num_requests: int,
    kinds: Sequence[tuple[int, int]],
    rate_per_s: float = math.inf,
    seed: int = 0,
) -> Workload:
    """A workload of equally many requests of each kind, in an order drawn by `seed`.

    kinds: (prompt tokens, output tokens). Each kind is a priority class named "PROMPT:OUTPUT",
    so that results come by kind. rate_per_s: of a Poisson process; inf: all at 0 s. Raises
    ValueError for num_requests < 1, a rate <= 0, no kinds or lengths < 1.
    """
    if not kinds:
        raise ValueError("kinds must hold at least 1 (prompt, output) pair, got none")
    if rate_per_s == math.inf:
        arrival_s = np.zeros(count("num_requests", num_requests))
    else:
        arrival_s = poisson(rate_per_s, num_requests, seed)
    drawn = np.random.default_rng(seed).permutation(np.arange(num_requests) % len(kinds))
    prompts, outputs = np.array(kinds)[drawn].T
    names = [f"{prompt}:{output}" for prompt, output in zip(prompts, outputs)]
    return Workload(arrival_s, prompts, outputs, priority_class=names)


def prompt_of(workload: Workload, index: int, seed: int = 0) -> list[int]:
    """Token ids of a request's prompt, (num_prompt_tokens,): the workload's own, else drawn.

    Drawn ones have nothing in common, so no prefix cache shortens them; `seed` draws the same
    for the same request, whatever was sent before.
    """
    if workload.prompt_token_ids is not None:
        return workload.prompt_token_ids[index]
    length = workload.num_prompt_tokens[index]
    return np.random.default_rng((seed, index)).integers(*TOKEN_IDS, length).tolist()
