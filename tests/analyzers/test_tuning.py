"""From a scene, and from a live run's events, to what the tuner shows."""

from math import isnan

import pytest

from coursekit.analyzers import tuning
from coursekit.analyzers.scene import play_scene
from coursekit.analyzers.tuning import Follower, TunerView, view_of_scene
from coursekit.cost import RooflineCost

COST = RooflineCost("a100", "llama-2-7b")


def step(start, end, tokens, prefill=0, finished=(), budget=100):
    return {
        "event": "step", "start_s": start, "end_s": end, "prefill": prefill,
        "decode": len(tokens), "tokens": list(tokens), "finished": list(finished),
        "budget": budget,
    }  # fmt: skip


@pytest.fixture
def follower():
    return Follower("live (test)", 0.1, COST, "token-budget", num_streams=2)


def test_a_scene_is_shown_while_all_its_streams_decode():
    run = play_scene(COST, "token-budget", 256, 4, 2000)
    view = view_of_scene(run, 0.01, 256)
    assert set(view.num_decode) == {4} and sum(view.num_prefill) == 2000
    assert view.worst_gap_s == pytest.approx(run.worst_gap_s)
    assert len(view.gaps_s) == 4 * len(view.ends_s)
    assert view.num_over_slo == sum(gap > 0.01 for gap in view.gaps_s) > 0
    assert view.prompts[0].ttft_s == run.ttft_s


def test_gaps_are_between_tokens_of_the_same_stream(follower):
    for event in (
        step(0, 1, [7]), step(1, 2, [7, 8]), step(2, 2.5, [7, 8]), step(2.5, 2.6, [8]),
        step(2.6, 4, [7, 8]),
    ):  # fmt: skip
        follower.take(event)
    assert follower.view.ends_s == [2.5, 2.6, 4]  # from when both streams decode
    assert follower.view.gaps_s == pytest.approx([0.5, 0.5, 0.1, 1.5, 1.4])


def test_a_prompt_has_the_worst_gap_of_its_time_and_its_own_tokens_are_no_gap(follower):
    for event in (
        step(0, 1, [0, 1]),
        step(1, 1.5, [0, 1]),
        {"event": "budget", "value": 64, "now_s": 1.5},
        {"event": "injected", "request": 5, "prompt_length": 120, "arrival_s": 1.4},
        step(1.5, 2.2, [0, 1], prefill=62, budget=64),
        step(2.2, 3.2, [0, 1, 5], prefill=58, finished=[5], budget=64),
        step(3.2, 9.2, [0, 1], budget=64),
    ):
        follower.take(event)
    (prompt,) = follower.view.prompts
    assert prompt.token_budget == 64 and prompt.ttft_s == pytest.approx(1.8)
    assert prompt.worst_gap_s == pytest.approx(1.0)
    assert follower.view.worst_gap_s == pytest.approx(6.0)
    assert follower.num_prompts_on_their_way == 0


def test_a_prompt_is_predicted_with_the_cost_as_a_simulation_predicts_it(follower):
    follower.take({"event": "budget", "value": 64, "now_s": 0})
    follower.take({"event": "injected", "request": 5, "prompt_length": 500, "arrival_s": 0})
    run = play_scene(COST, "token-budget", 64, 2, 500)
    (prompt,) = follower.view.prompts
    assert prompt.predicted_gap_s == run.worst_gap_s and prompt.predicted_ttft_s == run.ttft_s
    assert isnan(prompt.worst_gap_s) and isnan(prompt.ttft_s)


def test_a_prompt_that_can_never_run_has_no_prediction(follower):
    follower.take({"event": "budget", "value": 2, "now_s": 0})
    follower.take({"event": "injected", "request": 5, "prompt_length": 500, "arrival_s": 0})
    assert isnan(follower.view.prompts[0].predicted_ttft_s)


def test_a_stream_that_ends_and_one_that_follows_it_are_not_one(follower):
    for event in (step(0, 1, [0, 1]), step(1, 2, [0, 1], finished=[1]), step(2, 9, [0, 2])):
        follower.take(event)
    assert follower.view.gaps_s == [1, 1, 7]


def test_a_long_run_forgets_its_beginning(follower, monkeypatch):
    monkeypatch.setattr(tuning, "MOST_ITERATIONS", 10)
    for number in range(100):
        follower.take(step(number, number + 1, [0, 1]))
    view = follower.view
    assert len(view.ends_s) <= 20 and view.ends_s[-1] == 100
    assert len(view.gaps_s) <= 42 and len(view.starts_s) == len(view.num_decode)


def test_an_empty_view_has_no_numbers():
    view = TunerView("live (test)", 0.1)
    assert isnan(view.worst_gap_s) and isnan(view.usual_gap_s) and view.num_over_slo == 0
