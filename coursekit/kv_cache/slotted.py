"""KV cache of many requests: one block of memory, divided into slots of equal size.

A request holds a slot from its first token to its last. Blocks of 16 tokens, as vLLM has them,
waste less memory; slots keep a request's keys in one piece, which is what PyTorch's attention
kernels read. How much of a device's KV a scheduler *counts* as free is the scheduler's affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from coursekit.kv_cache.layout import allocate_kv

if TYPE_CHECKING:
    from coursekit.models.config import ModelConfig


class SlottedKVCache:
    """Keys and values of up to `num_slots` requests of up to `capacity` tokens each.

    keys, values: (num_layers, num_slots, num_kv_heads, capacity, head_dim)
    lengths:      (num_slots,), how many tokens of each slot are valid
    """

    def __init__(
        self,
        config: ModelConfig,
        num_slots: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        """Allocate. Raises ValueError for a size out of range, MemoryError if it does not fit."""
        limit = config.max_position_embeddings
        if not 1 <= capacity <= limit:
            raise ValueError(f"slot capacity must be in 1..{limit} tokens, got {capacity}")
        if num_slots < 1:
            raise ValueError(f"num_slots must be >= 1, got {num_slots}")
        shape = (config.num_layers, num_slots, config.num_kv_heads, capacity, config.head_dim)
        # zeros: what a slot holds past its length is multiplied by 0, and must not be a nan
        self.keys, self.values = allocate_kv(shape, dtype, device)
        self.capacity = capacity
        self.lengths = [0] * num_slots
        self._free = list(range(num_slots))

    @property
    def num_free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    def take(self) -> int:
        """A free slot, the lowest, so that those in use stay together, now empty.

        Raises RuntimeError if there is none.
        """
        if not self._free:
            raise RuntimeError(
                f"all {len(self.lengths)} KV slots are taken; lower the scheduler's max_num_seqs "
                "or give the cache more slots"
            )
        slot = min(self._free)
        self._free.remove(slot)
        self.lengths[slot] = 0
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back. Raises ValueError for one that is free already."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is free already; release each slot once")
        self._free.append(slot)
