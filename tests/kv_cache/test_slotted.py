"""Slots: who holds one, how much of it is valid, what is refused."""

import pytest
import torch

from coursekit.kv_cache import SlottedKVCache, layout


def test_the_lowest_free_slot_is_taken_and_starts_empty(tiny_config):
    cache = SlottedKVCache(tiny_config, 3, 16)
    assert [cache.take(), cache.take(), cache.take()] == [0, 1, 2] and cache.num_free == 0
    cache.lengths[1] = 9
    cache.release(2)
    cache.release(1)
    assert cache.take() == 1 and cache.lengths[1] == 0


def test_too_many_requests_and_double_release_are_refused(tiny_config):
    cache = SlottedKVCache(tiny_config, 1, 16)
    slot = cache.take()
    with pytest.raises(RuntimeError, match="all 1 KV slots are taken; lower"):
        cache.take()
    cache.release(slot)
    with pytest.raises(ValueError, match="slot 0 is free already"):
        cache.release(slot)


@pytest.mark.parametrize("num_slots, capacity", [(0, 16), (1, 0), (1, 513)])
def test_sizes_out_of_range_are_refused(tiny_config, num_slots, capacity):
    with pytest.raises(ValueError, match="must be"):
        SlottedKVCache(tiny_config, num_slots, capacity)


@pytest.mark.parametrize("matrix_units", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_look_alike_however_they_lie_in_memory(
    tiny_config, dtype, matrix_units, monkeypatch
):
    monkeypatch.setattr(layout, "_has_matrix_units", lambda: matrix_units)
    cache = SlottedKVCache(tiny_config, 2, 16, dtype)
    assert cache.keys.shape == cache.values.shape == (2, 2, 2, 16, 8)
    innermost_is_tokens = cache.keys.stride(3) == 1
    assert innermost_is_tokens == (dtype is torch.bfloat16 and not matrix_units)
