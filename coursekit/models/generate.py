"""Greedy generation for one request: the smallest loop that continues a prompt."""

from __future__ import annotations

import torch

from coursekit.kv_cache.contiguous import ContiguousKVCache
from coursekit.models.decoder import Chunk, Decoder


def generate_greedy(
    model: Decoder, cache: ContiguousKVCache, logits: torch.Tensor, num_tokens: int
) -> list[int]:
    """Continue a prefilled request by its most likely tokens.

    cache: holds the whole prompt; logits: (vocab_size,), those of the prompt's last token.
    Returns exactly `num_tokens` token ids; the cache then holds all of them but the last,
    which has been chosen but not yet run. Raises ValueError if they do not fit the cache.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be >= 1, got {num_tokens}")
    if num_tokens - 1 > cache.num_free:
        raise ValueError(
            f"{num_tokens} tokens need {num_tokens - 1} free cache slots, only "
            f"{cache.num_free} are left; make the cache larger"
        )
    tokens = [int(logits.argmax())]
    while len(tokens) < num_tokens:
        logits = model([Chunk(torch.tensor(tokens[-1:]), cache)])[0]
        tokens.append(int(logits.argmax()))
    return tokens
