"""A mixed batch as the model sees it: all tokens packed in rows, no padding between them.

Rows of requests that run one token come first, ordered by slot, then the chunks. The linear
layers never notice whose row is whose; attention does, and is done here, each row against its
own slot of the KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coursekit.kv_cache.slotted import SlottedKVCache
from coursekit.models.attention import attend, attend_one

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

    parts: one per request. order: (num_parts,), which of them each sampled row belongs to.
    token_ids, positions: (num_tokens,); rows: (num_parts,), the last row of each part.
    """

    def __init__(self, parts: list[Part], cache: SlottedKVCache):
        self.cache = cache
        device = cache.keys.device
        ranked = sorted(range(len(parts)), key=lambda i: (len(parts[i].token_ids) > 1, parts[i].slot))
        self.order = ranked
        self.parts = [parts[index] for index in ranked]
        self.ones = [part for part in self.parts if len(part.token_ids) == 1]
        ids = [token for part in self.parts for token in part.token_ids]
        places = [place for part in self.parts for place in range(part.context, part.end)]
        ends = torch.tensor([len(part.token_ids) for part in self.parts]).cumsum(0) - 1
        self.token_ids = torch.tensor(ids).to(device)
        self.positions = torch.tensor(places).to(device)
        self.rows = ends.to(device)
        self._slots = torch.tensor([part.slot for part in self.ones], dtype=torch.long).to(device)
        self._groups = [self._group(*span) for span in group_slots(self.ones)]

    def commit(self) -> None:
        """The forward succeeded: what was written is valid."""
        for part in self.parts:
            self.cache.lengths[part.slot] = part.end

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `coursekit.models.decoder.Attend`."""
        past_keys, past_values = self.cache.keys[layer], self.cache.values[layer]
        output = torch.empty_like(queries, memory_format=torch.contiguous_format)
        num_ones = len(self.ones)
        if num_ones:
            places = self.positions[:num_ones]
            past_keys[self._slots, :, places] = keys[:num_ones]
            past_values[self._slots, :, places] = values[:num_ones]
            self._attend_ones(queries, past_keys, past_values, output)
        first = num_ones
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
