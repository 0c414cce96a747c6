"""The module's simplest call: what it says of one prompt."""

import pytest

from coursekit import find_optimal_chunk_size
from coursekit.analyzers.scene import play_scene
from coursekit.cost import RooflineCost
from coursekit.optimizers import measure_chunk_performance

COST = RooflineCost("a100", "llama-2-7b")


def test_a_measurement_is_the_standing_scene():
    found = measure_chunk_performance(256, 4000, COST)
    scene = play_scene(COST, token_budget=260, num_streams=4, prompt_length=4000)
    assert found["num_chunks"] == 16
    assert found["total_time_s"] == scene.ttft_s
    assert found["tokens_per_s"] == pytest.approx(4000 / scene.ttft_s)
    # the worst gap less a decode step, which hardly grows meanwhile
    blocked = scene.worst_gap_s - scene.usual_gap_s
    assert found["max_blocking_time_s"] == pytest.approx(blocked, rel=0.03)


def test_chunks_cost_overhead_and_a_whole_prompt_none():
    sizes = (64, 256, 1024, 4000, 8000)
    found = [measure_chunk_performance(size, 4000, COST)["overhead_fraction"] for size in sizes]
    assert found == sorted(found, reverse=True) and found[-1] == found[-2] == 0


def test_later_chunks_block_longer_than_a_constant_per_token_would():
    """What the module's two constants hide: attention to all that came before."""
    short, long = (
        measure_chunk_performance(512, length, COST)["max_blocking_time_s"]
        for length in (1000, 16000)
    )
    assert long > 1.2 * short


@pytest.mark.parametrize("length", [1000, 4000, 8000])
def test_the_answer_is_the_fastest_size_that_blocks_no_longer_than_allowed(length):
    answer = find_optimal_chunk_size(length, 0.030, COST)
    table = answer.table
    assert table["max_blocking_time_s"][answer.chosen] <= 0.030
    allowed = table[table["max_blocking_time_s"] <= 0.030]
    assert answer.chosen == allowed["tokens_per_s"].idxmax()
    assert answer.binding.name == "max blocking time"


def test_where_all_block_too_long_the_nearest_limit_is_told():
    answer = find_optimal_chunk_size(8000, 1e-4, COST)
    assert answer.chosen is None and answer.nearest.size == 64
    needed = answer.nearest.must_become["max blocking time"]
    assert find_optimal_chunk_size(8000, needed, COST).chosen == 64


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ((0,), "prompt_length must be >= 1, got 0"),
        ((1000, -0.03), "max_blocking_time_s must be finite and > 0 s, got -0.03"),
        ((1000, 0.03, COST, (512, 256)), "must be 1 or more and rise"),
        ((1000, 0.03, COST, (64,), 0), "num_streams must be >= 1, got 0"),
        ((100_000, 0.03, COST, (16,)), "takes 6250 iterations, more than 4000"),
    ],
)
def test_bad_input_is_refused(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        find_optimal_chunk_size(*arguments)
