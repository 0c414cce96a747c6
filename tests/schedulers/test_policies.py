"""What each policy decides, in a handful of steps, and what it refuses."""

import pytest

from coursekit.kv_cache import BlockCounter
from coursekit.request import Request
from coursekit.schedulers import (
    DecodeFirst,
    InterleavedPrefillDecodeScheduler,
    OrcaMixed,
    PrefillFirst,
    PriorityAwareChunking,
    Scheduler,
    StallFree,
)


def steps(scheduler: Scheduler, *requests: Request, count: int = 6) -> list[tuple]:
    """(num_decodes, {request: tokens of its chunk}) of each step; arrival_s counts steps."""
    decided = []
    for step in range(count):
        for request in requests:
            if request.arrival_s == step:
                scheduler.add_request(request)
        batch = scheduler.schedule()
        decided.append((batch.num_decodes, {c.request.index: c.num_tokens for c in batch.chunks}))
        scheduler.update(batch)
    return decided


def request(
    index: int, prompt: int, output: int, arrival: int = 0, kind: str = "medium"
) -> Request:
    return Request(index, float(arrival), prompt, output, priority_class=kind)


def test_prefill_first_lets_decodes_stand_still_while_somebody_can_come_in():
    decided = steps(PrefillFirst(100), request(0, 10, 9), request(1, 99, 2, 2), request(2, 5, 2, 2))
    assert decided == [(0, {0: 10}), (1, {}), (0, {1: 99}), (0, {2: 5}), (3, {}), (1, {})]


def test_prefill_first_runs_a_prompt_longer_than_the_budget_alone():
    decided = steps(PrefillFirst(20), request(0, 5, 2), request(1, 50, 2), request(2, 5, 2))
    assert decided[:4] == [(0, {0: 5}), (0, {1: 50}), (0, {2: 5}), (3, {})]


def test_decode_first_admits_only_when_all_have_finished():
    decided = steps(DecodeFirst(), request(0, 10, 4), request(1, 7, 2), request(2, 5, 2, 1))
    assert decided == [(0, {0: 10, 1: 7}), (2, {}), (1, {}), (1, {}), (0, {2: 5}), (1, {})]


def test_decode_first_takes_no_more_into_a_batch_than_can_finish_in_the_cache():
    kv = BlockCounter(5, block_size=4)
    decided = steps(DecodeFirst(kv=kv), request(0, 6, 3), request(1, 6, 8), count=4)
    assert decided == [(0, {0: 6}), (1, {}), (1, {}), (0, {1: 6})]


def test_orca_mixes_whole_prompts_with_decodes():
    decided = steps(OrcaMixed(), request(0, 10, 4), request(1, 700, 2, 1), count=4)
    assert decided == [(0, {0: 10}), (1, {1: 700}), (2, {}), (1, {})]


def test_orca_admits_when_the_blocks_that_others_may_need_are_set_aside():
    kv = BlockCounter(5, block_size=4)
    decided = steps(OrcaMixed(kv=kv), request(0, 6, 3), request(1, 6, 8), count=4)
    assert decided == [(0, {0: 6}), (1, {}), (1, {}), (0, {1: 6})]


def test_stall_free_fills_up_with_running_prompts_then_with_new_ones():
    decided = steps(StallFree(20), request(0, 5, 9), request(1, 30, 3, 1), request(2, 8, 3, 1))
    assert decided[:5] == [(0, {0: 5}), (1, {1: 19}), (1, {1: 11, 2: 8}), (3, {}), (3, {})]


def test_stall_free_ends_at_a_tile_whenever_a_prompt_is_cut():
    decided = steps(StallFree(50, tile_size=16), request(0, 5, 9), request(1, 60, 3, 1))
    assert decided[:3] == [(0, {0: 5}), (1, {1: 47}), (1, {1: 13})]


def test_interleaved_takes_one_chunk_of_one_prompt_beside_all_decodes():
    scheduler = InterleavedPrefillDecodeScheduler(chunk_size=8)
    decided = steps(scheduler, request(0, 5, 9), request(1, 12, 3), request(2, 3, 3), count=5)
    assert decided == [(0, {0: 5}), (1, {1: 8}), (1, {1: 4}), (2, {2: 3}), (3, {})]


def test_interleaved_has_the_names_that_the_module_uses():
    scheduler = InterleavedPrefillDecodeScheduler()
    scheduler.add_request(request(0, 600, 1))
    assert scheduler.chunk_size == scheduler.schedule_next_batch().num_tokens == 512


def test_class_sizes_cap_the_chunks_and_a_small_one_makes_its_own_prompt_slow():
    crowd = [request(i, 1024, 1, 0, kind) for i, kind in enumerate(["high", "medium", "low"])]
    decided = steps(PriorityAwareChunking(), *crowd, count=4)
    assert decided[0] == (0, {0: 256, 1: 512, 2: 1024})
    assert decided[3] == (0, {0: 256})  # the high class is the last to be done


SHARED = {"priority_chunk_sizes": dict.fromkeys(("high", "medium", "low"), 1000)}


def test_new_requests_share_the_budget_by_class():
    crowd = [request(i, 900, 1, 0, kind) for i, kind in enumerate(["low", "medium", "high"])]
    decided = steps(PriorityAwareChunking(70, **SHARED), *crowd, count=1)
    assert decided == [(0, {2: 40, 1: 20, 0: 10})]


def test_what_a_class_does_not_need_goes_to_the_heaviest_other():
    crowd = [request(0, 900, 1, 0, "low"), request(1, 5, 1, 0, "high")]
    decided = steps(PriorityAwareChunking(70, **SHARED), *crowd, count=1)
    assert decided == [(0, {1: 5, 0: 65})]


def test_a_request_that_has_waited_outweighs_one_that_just_came():
    low, high = request(0, 900, 1, 0, "low"), request(1, 900, 1, 8, "high")
    scheduler = PriorityAwareChunking(40, ageing_iterations=1, **SHARED)
    decided = steps(scheduler, low, high, count=10)
    # 8 iterations old with share 1, against share 4: weights 9 and 4
    assert decided[8] == (0, {0: 40 - 40 * 4 // 13, 1: 40 * 4 // 13})


def test_places_go_by_weight_and_a_low_request_gets_one_in_the_end():
    stream = [request(i, 10, 1, i, "high") for i in range(40)]
    low = request(40, 10, 1, 0, "low")
    scheduler = PriorityAwareChunking(10, 1, ageing_iterations=4, **SHARED)
    served = [next(iter(chunks)) for _, chunks in steps(scheduler, low, *stream, count=40)]
    # (share 4 - share 1) * 4 iterations of head start, and the high one of that iteration is equal
    assert served.index(40) == 12


def test_an_unknown_class_is_refused_with_those_that_are_known():
    scheduler = PriorityAwareChunking()
    with pytest.raises(ValueError, match=r"'urgent', known are \['high', 'low', 'medium'\]"):
        scheduler.add_request(request(0, 5, 5, 0, "urgent"))
    assert not scheduler.has_requests


@pytest.mark.parametrize(
    "policy, options, message",
    [
        (StallFree, {"token_budget": 8, "tile_size": 9}, r"tile_size must be in 1\.\.8 .* got 9"),
        (StallFree, {"tile_size": 0}, "got 0"),
        (InterleavedPrefillDecodeScheduler, {"chunk_size": 0}, "chunk_size must be >= 1"),
        (PriorityAwareChunking, {"ageing_iterations": 0}, "ageing_iterations must be >= 1, got 0"),
        (PriorityAwareChunking, {"shares": {"high": 1}}, "name the same in both"),
        (PriorityAwareChunking, {"shares": {"high": 1, "medium": 0, "low": 1}}, "for 'medium'"),
        (PrefillFirst, {"token_budget": 0}, "token_budget must be >= 1, got 0"),
        (OrcaMixed, {"max_num_seqs": 0}, "max_num_seqs must be >= 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(policy, options, message):
    with pytest.raises(ValueError, match=message):
        policy(**options)


ALL = [
    DecodeFirst, InterleavedPrefillDecodeScheduler, OrcaMixed, PrefillFirst,
    PriorityAwareChunking, StallFree,
]  # fmt: skip


@pytest.mark.parametrize("policy", ALL)
def test_a_request_that_could_never_finish_is_refused_and_leaves_nothing_behind(policy):
    scheduler = policy(kv=BlockCounter(4, block_size=4), max_model_len=30)
    for prompt, output in ((16, 2), (20, 11)):
        with pytest.raises(ValueError, match="KV slots|max_model_len"):
            scheduler.add_request(request(0, prompt, output))
    assert not scheduler.has_requests


@pytest.mark.parametrize("policy", ALL)
def test_a_cache_that_shares_prefixes_is_refused(policy):
    kv = BlockCounter(4)
    kv.caches_prefixes = True
    with pytest.raises(ValueError, match="use TokenBudget with the prefix cache"):
        policy(kv=kv)
