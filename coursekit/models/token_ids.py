"""Turning what a caller hands over as a prompt into checked token ids."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def as_token_ids(prompt: Sequence[int] | torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return `prompt` as a CPU tensor of token ids, (num_tokens,), int64.

    Raises ValueError if it is empty, not one-dimensional, holds anything but integers, or
    holds an id outside 0..vocab_size - 1.
    """
    ids = torch.as_tensor(prompt)
    if ids.numel() == 0:
        raise ValueError("a prompt needs at least 1 token, got 0")
    if ids.dim() != 1:
        raise ValueError(f"a prompt must have 1 dimension, got shape {tuple(ids.shape)}")
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise ValueError(f"token ids must be integers, got {ids.dtype}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        raise ValueError(
            f"token ids must be in 0..{vocab_size - 1}, got {bad}; use this model's own tokenizer"
        )
    return ids.to("cpu", torch.long)
