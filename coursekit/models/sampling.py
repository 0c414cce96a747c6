"""How the next token is chosen from its logits.

The draw depends on the seed, the request and the token's place, and on nothing else: a
request gets the same tokens however its prompt was cut and whoever shared its batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """temperature: 0 takes the most likely token; top_p: draw among the most likely tokens that
    together have this probability; seed: >= 0. Raises ValueError for a value out of range."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be finite and >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")

    def choose(self, logits: Tensor, places: Sequence[tuple[int, int]]) -> list[int]:
        """A token for each row of logits, (n, vocab_size).

        places: (request, position) of each token, n of them.
        """
        if self.temperature == 0:
            return logits.float().argmax(dim=-1).tolist()  # bfloat16's own is slow on CPUs
        probabilities = (logits.float() / self.temperature).softmax(dim=-1).cpu()
        return [self._draw(row, place) for row, place in zip(probabilities, places, strict=True)]

    def _draw(self, probabilities: Tensor, place: tuple[int, int]) -> int:
        ranked, tokens = probabilities.sort(descending=True)
        before = ranked.cumsum(0) - ranked  # what more likely tokens have together
        kept = ranked * (before < self.top_p)
        seed = hash((self.seed, *place)) & (2**63 - 1)
        generator = torch.Generator().manual_seed(seed)
        return int(tokens[torch.multinomial(kept, 1, generator=generator)])
