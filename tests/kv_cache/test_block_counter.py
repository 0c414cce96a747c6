"""KV blocks by number: enough for the tokens, never a block lost or held twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.kv_cache import BlockCounter
from coursekit.request import Request


def request(num_prompt_tokens: int = 100) -> Request:
    return Request(0, 0.0, num_prompt_tokens, 10)


@pytest.mark.parametrize("num_tokens, num_blocks", [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_request_holds_as_many_blocks_as_its_tokens_fill_or_begin(num_tokens, num_blocks):
    kv, one = BlockCounter(10, block_size=4), request()
    assert kv.allocate(one, num_tokens)
    assert (one.num_blocks, kv.num_free) == (num_blocks, 10 - num_blocks)


def test_more_tokens_take_only_the_blocks_that_are_missing():
    kv, one = BlockCounter(10, block_size=4), request()
    for num_tokens, num_blocks in [(3, 1), (4, 1), (5, 2), (20, 5)]:
        assert kv.allocate(one, num_tokens)
        assert one.num_blocks == num_blocks


def test_all_or_nothing():
    kv, one, other = BlockCounter(3, block_size=4), request(), request()
    assert kv.allocate(one, 8)
    assert kv.fits(other, 4) and not kv.fits(other, 5)
    assert not kv.allocate(other, 5)
    assert (other.num_blocks, kv.num_free) == (0, 1)


def test_released_blocks_are_free_again():
    kv, one = BlockCounter(3, block_size=4), request()
    kv.allocate(one, 12)
    kv.release(one)
    kv.release(one)  # a request without blocks has none to give
    assert (one.num_blocks, kv.num_free) == (0, 3)


def test_nothing_is_cached():
    kv = BlockCounter(3, block_size=4)
    assert kv.caches_prefixes is False
    assert kv.num_cached_tokens(request()) == 0


@pytest.mark.parametrize("sizes", [(0, 16), (-1, 16), (4, 0), (4, -2)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match=rf">= 1.*, got {min(sizes)}"):
        BlockCounter(*sizes)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40))))
def test_every_block_is_free_or_held(orders):
    kv, requests = BlockCounter(12, block_size=4), [request() for _ in range(4)]
    for place, num_tokens in orders:
        if num_tokens:
            kv.allocate(requests[place], num_tokens)
        else:
            kv.release(requests[place])
        assert kv.num_free + sum(one.num_blocks for one in requests) == 12
        assert kv.num_free >= 0
