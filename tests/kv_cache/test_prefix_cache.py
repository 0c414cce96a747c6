"""Prefix caching: what is found, what is shared, and what is forgotten first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.kv_cache import PrefixCachingBlocks
from coursekit.request import Request
from coursekit.schedulers import TokenBudget


def request(token_ids, max_tokens: int = 10, index: int = 0) -> Request:
    return Request(index, 0.0, len(token_ids), max_tokens, prompt_token_ids=token_ids)


def admit(kv: PrefixCachingBlocks, one: Request) -> int:
    """Give a request all its blocks as a scheduler does; return how many tokens were cached."""
    one.num_computed_tokens = kv.num_cached_tokens(one)
    num_cached_tokens = one.num_computed_tokens
    assert kv.allocate(one, one.num_tokens)
    one.num_computed_tokens = one.num_tokens
    return num_cached_tokens


def release(kv: PrefixCachingBlocks, one: Request) -> None:
    kv.release(one)
    one.num_computed_tokens = 0


@pytest.mark.parametrize(
    "tokens, num_cached",
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], 8),
        ([1, 2, 3, 4, 5, 6, 7, 8], 4),  # the last token is computed anew, so its block is
        ([1, 2, 3, 4, 5, 6, 7, 0, 0], 4),
        ([0, 2, 3, 4, 5, 6, 7, 8, 9], 0),  # an equal block after another beginning is another
        ([1, 2, 3], 0),
    ],
)
def test_whole_blocks_of_the_common_beginning_are_found(tokens, num_cached):
    kv = PrefixCachingBlocks(10, block_size=4)
    admit(kv, request([1, 2, 3, 4, 5, 6, 7, 8, 9]))
    assert kv.num_cached_tokens(request(tokens)) == num_cached


def test_running_requests_share_blocks_and_the_last_to_leave_frees_them():
    kv = PrefixCachingBlocks(10, block_size=4)
    one, other = request([1] * 9), request([1] * 10)
    admit(kv, one)
    assert admit(kv, other) == 8
    assert kv.blocks_of(one)[:2] == kv.blocks_of(other)[:2]
    assert kv.num_free == 10 - 4  # two shared, and one of each
    release(kv, one)
    assert kv.num_free == 10 - 3
    release(kv, other)
    assert kv.num_free == 10


def test_a_block_is_found_from_the_moment_its_tokens_are_given_out():
    kv, one = PrefixCachingBlocks(10, block_size=4), request([1] * 12)
    kv.allocate(one, 7)  # a chunk
    assert kv.num_cached_tokens(request([1] * 12)) == 4
    one.num_computed_tokens = 7
    kv.allocate(one, 8)
    assert kv.num_cached_tokens(request([1] * 12)) == 8


def test_generated_tokens_fill_blocks_too():
    kv, one = PrefixCachingBlocks(10, block_size=4), request([1, 2, 3])
    admit(kv, one)
    one.token_ids.append(4)
    one.num_output_tokens += 1
    kv.allocate(one, 4)
    assert kv.num_cached_tokens(request([1, 2, 3, 4, 9])) == 4


def test_a_preempted_request_finds_its_own_blocks():
    kv, one = PrefixCachingBlocks(10, block_size=4), request([1] * 9)
    admit(kv, one)
    release(kv, one)
    assert admit(kv, one) == 8
    assert kv.num_free == 10 - 3


def test_idle_blocks_cost_as_much_as_new_ones():
    kv = PrefixCachingBlocks(4, block_size=4)
    one, other, third = request([1] * 8), request([2] * 8), request([1] * 9)
    admit(kv, one)
    release(kv, one)
    admit(kv, other)  # takes the two blocks that nobody has used yet
    assert kv.num_cached_tokens(third) == 8
    assert kv.fits(third, 8, num_cached_tokens=8)
    assert not kv.fits(third, 9, num_cached_tokens=8)


def test_the_least_recently_used_is_forgotten_first_and_of_a_request_the_end():
    kv = PrefixCachingBlocks(4, block_size=4)
    old, young = request([1] * 8), request([2] * 8)
    for one in (old, young):
        admit(kv, one)
    for one in (old, young):
        release(kv, one)
    known = [[kv.num_cached_tokens(request([token] * 9)) for token in (1, 2)]]
    for token in (3, 4, 5):
        admit(kv, request([token] * 4))
        known.append([kv.num_cached_tokens(request([token] * 9)) for token in (1, 2)])
    assert known == [[8, 8], [4, 8], [0, 8], [0, 4]]


def test_blocks_that_were_never_filled_are_reused_before_all_others():
    kv = PrefixCachingBlocks(3, block_size=4)
    one = request([1] * 9)
    admit(kv, one)
    release(kv, one)
    admit(kv, request([2] * 4))
    assert kv.num_cached_tokens(request([1] * 9)) == 8


def test_of_equal_blocks_one_may_go_and_the_other_is_still_found():
    kv = PrefixCachingBlocks(3, block_size=4)
    one, other = request([1] * 4), request([1] * 4)
    admit(kv, one)
    assert admit(kv, other) == 0  # its only block holds the last token, so both compute it
    assert set(kv.blocks_of(one)).isdisjoint(kv.blocks_of(other))
    release(kv, one)
    admit(kv, request([2] * 8))
    assert kv.num_cached_tokens(request([1] * 5)) == 4


@pytest.mark.parametrize("tokens", [None, [1, 2, 3]])
def test_without_token_ids_there_is_nothing_to_compare(tokens):
    one = Request(7, 0.0, 20, 1, prompt_token_ids=tokens)
    with pytest.raises(ValueError, match=r"request 7 has \d of 16.*prompt_token_ids"):
        PrefixCachingBlocks(10, block_size=4).num_cached_tokens(one)


@pytest.mark.parametrize("sizes", [(0, 16), (4, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ValueError, match=r">= 1.*, got 0"):
        PrefixCachingBlocks(*sizes)


def test_a_request_keeps_what_was_cached_at_its_first_admission():
    scheduler = TokenBudget(64, 8, PrefixCachingBlocks(10, block_size=4))
    first, second = request([1] * 9, index=0), request([1] * 9, index=1)
    for one in (first, second):
        scheduler.add_request(one)
    batch = scheduler.schedule()
    assert [chunk[1:] for chunk in batch.chunks] == [(9, 0), (1, 8)]
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, 8)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 24), st.booleans()), max_size=40))
def test_every_block_is_free_or_held_and_never_both(orders):
    kv = PrefixCachingBlocks(12, block_size=4)
    requests = [request([token % 2] * 24) for token in range(5)]
    for place, num_tokens, leaves in orders:
        one = requests[place]
        if leaves:
            release(kv, one)
        elif one.num_blocks == 0:
            one.num_computed_tokens = kv.num_cached_tokens(one)
            if kv.allocate(one, max(num_tokens, one.num_computed_tokens + 1)):
                one.num_computed_tokens = max(num_tokens, one.num_computed_tokens + 1)
            else:
                one.num_computed_tokens = 0
        held = [block for one in requests for block in kv.blocks_of(one)]
        assert kv.num_free + len(set(held)) == 12
        assert all(len(set(kv.blocks_of(one))) == one.num_blocks for one in requests)
