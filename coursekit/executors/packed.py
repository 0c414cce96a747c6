"""A mixed batch as the model sees it: all tokens packed in rows, no padding between them.

Rows of requests that run one token come first, ordered by slot, then the chunks. The linear
layers never notice whose row is whose; attention does, and is done here, each row against its
own slot of the KV cache: single tokens by our own kernels where there are some, the rest by
PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.kv_cache.slotted import SlottedKVCache
from coursekit.models.attention import attend, attend_one
from coursekit.models.kernels import DecodeKernels

MOST_WASTE = 1.25  # how much more a group of slots may read than its requests have
TILE = 64  # contexts are read in multiples of it: for each new shape the CPU's kernels are made anew


@dataclass(frozen=True, slots=True)
class Part:
    """Some next tokens of the request in `slot`, behind the `context` that it holds."""

    slot: int
    token_ids: list[int]
    context: int

    @property
    def end(self) -> int:
        return self.context + len(self.token_ids)


class PackedBatch:
    """Rows and attention of one iteration.

    parts: one per request, in the order of the rows; order: where each was among those given.
    token_ids, positions: (num_tokens,), on the cache's device; rows: (num_parts,), on the CPU,
    the last row of each part. kernels: what attends single tokens (default: PyTorch's).
    """

    def __init__(
        self, parts: list[Part], cache: SlottedKVCache, kernels: DecodeKernels | None = None
    ):
        self.cache = cache
        self.kernels = kernels
        device = cache.keys.device
        ranked = sorted(range(len(parts)), key=lambda i: (len(parts[i].token_ids) > 1, parts[i].slot))
        self.order = ranked
        self.parts = [parts[index] for index in ranked]
        self.ones = [part for part in self.parts if len(part.token_ids) == 1]
        ids = [token for part in self.parts for token in part.token_ids]
        places = [place for part in self.parts for place in range(part.context, part.end)]
        self.rows = torch.tensor([len(part.token_ids) for part in self.parts]).cumsum(0) - 1
        self.token_ids = to_device(ids, device)
        self.positions = to_device(places, device)
        self._slots = to_device([part.slot for part in self.ones], device)
        if kernels is None:
            self._groups = [self._group(*span) for span in group_slots(self.ones)]
        else:
            self._lengths = self.positions[: len(self.ones)] + 1

    def last_rows(self, given: list[int]) -> Tensor:
        """Last row of each of these parts, numbered as they were given; on the cache's device."""
        row_of = dict(zip(self.order, self.rows.tolist(), strict=True))
        return to_device([row_of[index] for index in given], self.cache.keys.device)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `coursekit.models.decoder.Attend`."""
        past_keys, past_values = self.cache.keys[layer], self.cache.values[layer]
        output = torch.empty_like(queries, memory_format=torch.contiguous_format)
        first = num_ones = len(self.ones)
        if num_ones and self.kernels is not None:
            new, past = (keys[:num_ones], values[:num_ones]), (past_keys, past_values)
            self.kernels.store(*new, *past, self._slots, self._lengths)
            out = self.kernels.attend(queries[:num_ones], *past, self._slots, self._lengths)
            output[:num_ones] = out
        elif num_ones:
            places = self.positions[:num_ones]
            past_keys[self._slots, :, places] = keys[:num_ones]
            past_values[self._slots, :, places] = values[:num_ones]
            self._attend_ones(queries, past_keys, past_values, output)
        for part in self.parts[num_ones:]:
            last = first + len(part.token_ids)
            k, v = past_keys[part.slot], past_values[part.slot]  # (num_kv_heads, capacity, d)
            k[:, part.context : part.end] = keys[first:last].transpose(0, 1)
            v[:, part.context : part.end] = values[first:last].transpose(0, 1)
            out = attend(queries[first:last].transpose(0, 1), k[:, : part.end], v[:, : part.end])
            output[first:last] = out.transpose(0, 1)
            first = last
        return output

    def _attend_ones(self, queries: Tensor, keys: Tensor, values: Tensor, output: Tensor) -> None:
        for group in self._groups:
            k, v = (past[group.slots, :, : group.reach] for past in (keys, values))
            q = queries[group.rows].unsqueeze(2)  # (group, num_heads, 1, head_dim)
            output[group.rows] = attend_one(q, k, v, group.mask).squeeze(2)

    def _group(self, first: int, last: int) -> _Group:
        """What each layer needs to know of the parts first..last - 1."""
        parts = self.ones[first:last]
        ends = torch.tensor([part.end for part in parts])
        reach = min(-(-int(ends.max()) // TILE) * TILE, self.cache.capacity)
        mask = torch.zeros(len(parts), reach, dtype=self.cache.keys.dtype)
        mask.masked_fill_(torch.arange(reach) >= ends[:, None], -torch.inf)
        mask = mask[:, None, None].to(self.cache.keys.device)
        return _Group(slice(first, last), slice(parts[0].slot, parts[-1].slot + 1), reach, mask)


def to_device(numbers: list[int], device: torch.device) -> Tensor:
    """(len(numbers),), int64. A GPU fetches them itself, while Python goes on."""
    tensor = torch.tensor(numbers, dtype=torch.long)
    if device.type != "cuda" or not numbers:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows that one call attends: they hold adjacent slots, all read up to `reach` tokens.

    mask: (group, 1, 1, reach), what to add to the scores.
    """

    rows: slice
    slots: slice
    reach: int
    mask: Tensor


def group_slots(parts: list[Part]) -> list[tuple[int, int]]:
    """Cut parts, sorted by slot, into groups that one call attends: (first, last + 1) of each.

    Members of a group are in adjacent slots and about equally long: all are read as far as
    the longest, which may be at most MOST_WASTE times what they have together.
    """
    groups: list[tuple[int, int]] = []
    first, total, longest = 0, 0, 0
    for index, part in enumerate(parts):
        size, most = index - first + 1, max(longest, part.end)
        apart = index > first and part.slot != parts[index - 1].slot + 1
        if apart or size * most > MOST_WASTE * (total + part.end):
            groups.append((first, index))
            first, total, most = index, 0, part.end
        total, longest = total + part.end, most
    if parts:
        groups.append((first, len(parts)))
    return groups
