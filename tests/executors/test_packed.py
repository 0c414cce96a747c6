"""How a mixed batch is packed, and what of it one call attends."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from coursekit.executors.packed import MOST_WASTE, PackedBatch, Part, group_slots
from coursekit.kv_cache import SlottedKVCache

slots_and_contexts = st.dictionaries(st.integers(0, 30), st.integers(0, 400), min_size=1)


@given(slots_and_contexts)
def test_groups_cover_all_parts_in_order_within_their_waste(contexts):
    parts = [Part(slot, [5], contexts[slot]) for slot in sorted(contexts)]
    groups = group_slots(parts)
    assert [i for first, last in groups for i in range(first, last)] == list(range(len(parts)))
    for first, last in groups:
        group = parts[first:last]
        assert [p.slot for p in group] == list(range(group[0].slot, group[0].slot + len(group)))
        ends = [part.end for part in group]
        assert len(group) == 1 or len(group) * max(ends) <= MOST_WASTE * sum(ends)


def test_equally_long_neighbours_are_one_group():
    assert group_slots([Part(slot, [5], 100) for slot in range(16)]) == [(0, 16)]
    assert group_slots([]) == []


def test_single_tokens_come_first_by_slot_and_rows_are_the_last_of_each_part(tiny_config):
    cache = SlottedKVCache(tiny_config, 4, 32)
    parts = [Part(1, [7, 8, 9], 4), Part(3, [2], 9), Part(0, [1], 5), Part(2, [3, 4], 0)]
    batch = PackedBatch(parts, cache)
    assert batch.token_ids.tolist() == [1, 2, 7, 8, 9, 3, 4]
    assert batch.positions.tolist() == [5, 9, 4, 5, 6, 0, 1]
    assert batch.rows.tolist() == [0, 1, 4, 6] and batch.order == [2, 1, 0, 3]
    assert batch.last_rows([0, 2, 3]).tolist() == [4, 0, 6]


def test_rows_read_no_further_than_their_own_request(tiny_config):
    cache = SlottedKVCache(tiny_config, 2, 200)
    batch = PackedBatch([Part(0, [1], 90), Part(1, [1], 99)], cache)
    (group,) = batch._groups
    assert group.reach == 128
    assert torch.isfinite(group.mask).sum(dim=-1).flatten().tolist() == [91, 100]
