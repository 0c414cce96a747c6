"""One request's KV cache as one preallocated block of memory.

Keys and values are written once, in place, and never copied or concatenated. Slots past
`length` are scratch: a forward that fails half-way leaves `length`, and so the cache, as it
was. Many requests sharing memory in blocks is another idea, and lives in another file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from coursekit.kv_cache.layout import allocate_kv

if TYPE_CHECKING:
    from coursekit.models.config import ModelConfig


class ContiguousKVCache:
    """Keys and values of up to `capacity` tokens of one request.

    keys, values: (num_layers, num_kv_heads, capacity, head_dim)
    token_ids:    (capacity,), what each slot was computed from
    length:       how many slots are valid; vLLM calls it `num_computed_tokens`
    """

    def __init__(
        self,
        config: ModelConfig,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        """Allocate. Raises ValueError if capacity is not in 1..max_position_embeddings."""
        limit = config.max_position_embeddings
        if not 1 <= capacity <= limit:
            raise ValueError(f"cache capacity must be in 1..{limit} tokens, got {capacity}")
        shape = (config.num_layers, config.num_kv_heads, capacity, config.head_dim)
        self.keys, self.values = allocate_kv(shape, dtype, device)
        self.token_ids = torch.zeros(capacity, dtype=torch.long)
        self.capacity = capacity
        self.length = 0

    @property
    def num_free(self) -> int:
        """Slots still empty."""
        return self.capacity - self.length

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor):
        """Put a chunk's keys and values, each (num_kv_heads, num_tokens, head_dim), behind
        the valid slots and return views of all that the chunk may attend to, each
        (num_kv_heads, length + num_tokens, head_dim). `length` itself moves in `commit`.
        """
        end = self.length + keys.shape[1]
        self.keys[layer, :, self.length : end] = keys
        self.values[layer, :, self.length : end] = values
        return self.keys[layer, :, :end], self.values[layer, :, :end]

    def commit(self, token_ids: torch.Tensor) -> None:
        """Make the slots of `token_ids`, (num_tokens,), valid: every layer has written them."""
        end = self.length + len(token_ids)
        self.token_ids[self.length : end] = token_ids
        self.length = end

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on. Raises ValueError outside 0..self.length."""
        if not 0 <= length <= self.length:
            raise ValueError(f"length must be in 0..{self.length}, got {length}")
        self.length = length
