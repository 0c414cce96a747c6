"""Scenes: what is measured is what was asked for, whatever engine runs it."""

import pytest

from coursekit.cost import CalibratedCost
from coursekit.cost.measure import (
    NUM_ALONE, Scene, measure_engine, measure_scene, median_of, scenes,
)  # fmt: skip
from coursekit.live import TorchEngine
from coursekit.schedulers import TokenBudget


@pytest.fixture
def engine(tiny_model):
    return TorchEngine(tiny_model, TokenBudget(128, 9), 400)


def test_the_grid_reaches_its_limits_and_varies_each_apart():
    made = scenes(256, 8, 1024)
    assert max(scene.chunk_size for scene in made) == 256
    assert {scene.num_decodes for scene in made} == {0, 1, 4, 8}
    assert max(scene.decode_context for scene in made) == 1024
    for size in {scene.chunk_size for scene in made}:
        assert len({s.num_decodes for s in made if s.chunk_size == size}) == 4


def test_a_bound_on_tokens_shortens_the_longest_prompts():
    everything = scenes(256, 8, 1024)
    fewer = scenes(256, 8, 1024, most_tokens=4000)
    assert sum(scene.prompt_length for scene in fewer) <= 4000
    assert [s[:3] for s in fewer] == [s[:3] for s in everything]


def test_iterations_are_those_of_the_scene(engine):
    measured = [median_of(same) for same in measure_scene(engine, Scene(3, 50, 20, 70), rounds=2)]
    alone, mixed = measured[:NUM_ALONE], measured[NUM_ALONE:]
    assert [row.num_decodes for row in measured] == [3] * (NUM_ALONE + 4)
    assert [row.chunks for row in alone] == [[]] * NUM_ALONE
    assert [row.chunks[0][1:] for row in mixed] == [(20, 0), (20, 20), (20, 40), (10, 60)]
    contexts = [row.decode_context for row in measured]
    assert [b - a for a, b in zip(contexts, contexts[1:])] == [3] * (len(contexts) - 1)
    # the first streams go on while the last are prefilled
    assert 3 * 50 <= contexts[0] <= 3 * 50 + 9
    assert all(row.seconds > 0 for row in measured) and not engine.has_requests


def test_streams_with_long_contexts_are_all_there_to_the_end(engine):
    measured = measure_scene(engine, Scene(5, 300, 20, 40), rounds=1)
    assert [same[0].num_decodes for same in measured] == [5] * (NUM_ALONE + 2)


def test_a_scene_without_streams_is_a_prompt_alone(engine):
    measured = measure_scene(engine, Scene(0, 16, 32, 64), rounds=1)
    assert [same[0].num_decodes for same in measured] == [0, 0]


def test_the_median_counts(engine):
    same = measure_scene(engine, Scene(1, 16, 32, 64), rounds=3)[0]
    assert median_of(same).seconds == sorted(each.seconds for each in same)[1]


def test_a_cost_can_be_fitted_to_it(engine):
    done = []
    cost = CalibratedCost.fit(measure_engine(engine, scenes(64, 8, 128), 1, done.append))
    assert cost.profile.highest["tokens"] == 72 and done[-1] == len(done)


def test_scenes_past_the_engine_and_grids_too_small_are_refused(engine):
    with pytest.raises(ValueError, match=r"num_decodes \+ chunk_size must be <= 128.*got 130"):
        measure_scene(engine, Scene(2, 16, 128, 256))
    with pytest.raises(ValueError, match="prompt_length must be <= 399.*got 500"):
        measure_scene(engine, Scene(2, 16, 64, 500))
    with pytest.raises(ValueError, match="max_decodes must be >= 2, got 1"):
        scenes(64, 1, 128)
