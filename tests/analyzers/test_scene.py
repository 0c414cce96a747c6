"""The standing scene: what it plays, what it reads, what it refuses."""

import numpy as np
import pytest

from coursekit.analyzers.scene import LEAD, chunks_needed, play_scene
from coursekit.cost import RooflineCost
from coursekit.schedulers import NAMES

COST = RooflineCost("a100", "llama-2-7b")


@pytest.mark.parametrize("scheduler", NAMES)
def test_every_scheduler_plays_it_to_the_end(scheduler):
    run = play_scene(COST, scheduler, 256, 4, 2000)
    assert not np.isnan(run.trace.requests["finished_s"]).any()
    assert run.trace.requests["num_prompt_tokens"].tolist() == [64] * 4 + [2000]
    assert 0 < run.arrival_s < run.first_token_s
    assert run.worst_gap_s >= run.usual_gap_s * 0.99 > 0


def test_the_prompt_arrives_after_the_lead():
    run = play_scene(COST, "token-budget", 256, 4, 2000)
    steps = run.trace.token_times_s(3)
    assert (steps <= run.arrival_s).sum() == LEAD


def test_a_smaller_budget_means_smaller_gaps_and_a_later_first_token():
    runs = [play_scene(COST, "token-budget", budget, 4, 2000) for budget in (16, 256, 2048)]
    gaps, ttfts = [r.worst_gap_s for r in runs], [r.ttft_s for r in runs]
    assert gaps == sorted(gaps) and gaps[2] > 5 * gaps[0]
    assert ttfts == sorted(ttfts, reverse=True)


def test_in_one_shot_the_worst_gap_is_the_iteration_with_the_whole_prompt():
    run = play_scene(COST, "token-budget", 4000, 4, 2000)
    iterations = run.trace.iterations
    whole = iterations["num_prefill_tokens"] == 2000
    assert whole.sum() == 1
    assert run.worst_gap_s == pytest.approx(
        float((iterations["end_s"] - iterations["start_s"])[whole][0])
    )


def test_sizes_that_can_not_work_are_refused():
    assert chunks_needed(14, 4, 100) == 10
    with pytest.raises(ValueError, match="token_budget must be > 4.*got 4"):
        play_scene(COST, "token-budget", 4, 4, 2000)
    with pytest.raises(ValueError, match="takes 8000 iterations, more than 4000"):
        play_scene(COST, "token-budget", 5, 4, 8000)
    for name in ("token_budget", "num_streams", "prompt_length", "context"):
        with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
            play_scene(COST, **{name: 0})
