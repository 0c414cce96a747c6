"""The contiguous cache: written in place, valid only after commit."""

import pytest
import torch

from coursekit.kv_cache import ContiguousKVCache


def some(config, num_tokens):
    return torch.randn(config.num_kv_heads, num_tokens, config.head_dim)


def test_a_write_counts_only_after_commit(tiny_config):
    cache = ContiguousKVCache(tiny_config, 8)
    keys, values = some(tiny_config, 3), some(tiny_config, 3)
    seen_keys, seen_values = cache.write(0, keys, values)
    assert torch.equal(seen_keys, keys) and torch.equal(seen_values, values)
    assert (cache.length, cache.num_free) == (0, 8)
    cache.commit(torch.tensor([1, 2, 3]))
    assert (cache.length, cache.num_free) == (3, 5)


def test_a_later_chunk_sees_the_earlier_ones_without_a_copy(tiny_config):
    cache = ContiguousKVCache(tiny_config, 8)
    first, second = some(tiny_config, 3), some(tiny_config, 2)
    cache.write(1, first, first)
    cache.commit(torch.tensor([1, 2, 3]))
    keys, _ = cache.write(1, second, second)
    assert torch.equal(keys, torch.cat([first, second], dim=1))
    assert keys.data_ptr() == cache.keys[1].data_ptr()


def test_truncate_forgets_the_tail_and_only_that(tiny_config):
    cache = ContiguousKVCache(tiny_config, 8)
    cache.write(0, some(tiny_config, 4), some(tiny_config, 4))
    cache.commit(torch.tensor([5, 6, 7, 8]))
    cache.truncate(2)
    assert cache.length == 2 and cache.token_ids[:2].tolist() == [5, 6]


@pytest.mark.parametrize("length", [-1, 5])
def test_truncate_outside_the_valid_slots_is_refused(tiny_config, length):
    cache = ContiguousKVCache(tiny_config, 8)
    cache.commit(torch.tensor([5, 6, 7, 8]))
    with pytest.raises(ValueError, match=rf"0\.\.4, got {length}"):
        cache.truncate(length)


@pytest.mark.parametrize("capacity", [0, -3, 10_000])
def test_a_capacity_outside_the_context_is_refused(tiny_config, capacity):
    limit = tiny_config.max_position_embeddings
    with pytest.raises(ValueError, match=rf"1\.\.{limit} tokens, got {capacity}"):
        ContiguousKVCache(tiny_config, capacity)
