"""Measuring a live model, here the tiny one."""

import numpy as np
import pytest

from coursekit.cost import calibrate_model, measure_batches
from coursekit.cost.calibrate import draw_batches

SMALL = {"max_chunk_tokens": 128, "max_context": 256, "max_decodes": 8}


def test_a_live_model_is_measured_and_fitted(tiny_model):
    profile = calibrate_model(tiny_model, **SMALL).profile
    assert profile.model == "tiny, float32" and profile.device and "torch" in profile.software
    assert profile.highest["tokens"] == 136 and profile.highest["sequences"] == 9
    assert sum(profile.coefficients.values()) > 0
    assert 0 <= profile.residuals.median <= profile.residuals.worst < np.inf


def test_the_fit_is_to_the_batches_that_ran(tiny_model, monkeypatch):
    """With a made-up stopwatch, so that a busy machine can't blur it."""
    from coursekit.cost import calibrate as module

    def time_s(model, caches, batch):
        contexts, chunks = batch
        pairs = sum(size * context + size * (size + 1) // 2 for size, context in chunks)
        return 0.01 + 0.001 * len(contexts + chunks) + 1e-6 * pairs

    monkeypatch.setattr(module, "_time_s", time_s)
    profile = calibrate_model(tiny_model, rounds=1, **SMALL).profile
    assert profile.residuals.worst < 1e-6 and profile.held_out.worst < 1e-6
    assert profile.coefficients["pair"] == pytest.approx(1e-6)


def test_measured_batches_hold_what_was_run(tiny_model):
    measured = measure_batches(tiny_model, rounds=1, **SMALL)
    assert len(measured) == 40 and all(batch.seconds > 0 for batch in measured)
    assert measured[0].num_decodes == 8 and measured[0].decode_context == 8 * 256
    assert measured[1].chunks == [(None, 128, 256)]


def test_further_rounds_are_left_out_when_time_is_up(tiny_model, monkeypatch):
    from coursekit.cost import calibrate as module

    runs = []
    monkeypatch.setattr(module, "_time_s", lambda *args: runs.append(args) or 0.001)
    module.measure_batches(tiny_model, rounds=50, seconds=0.0, **SMALL)
    assert len(runs) == 3 + 40


def test_the_batches_drawn_stay_within_their_limits_and_are_of_all_three_kinds():
    drawn = draw_batches(60, 200, 300, 6, np.random.default_rng(3))
    assert all(len(contexts) <= 6 and max(contexts, default=1) <= 300 for contexts, _ in drawn)
    chunks = [chunk for _, chunks in drawn for chunk in chunks]
    assert all(1 <= size <= 200 and 0 <= context <= 300 for size, context in chunks)
    kinds = [(bool(contexts), bool(chunks)) for contexts, chunks in drawn]
    assert all(kinds.count(kind) > 15 for kind in [(True, False), (False, True), (True, True)])


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"num_batches": 5}, "num_batches must be >= 14, got 5"),
        ({"max_decodes": 1}, "max_decodes must be >= 2, got 1"),
        ({"rounds": 0}, "rounds must be >= 1, got 0"),
        ({"max_context": 500}, r"max_context \+ max_chunk_tokens must be <= 512"),
    ],
)
def test_impossible_limits_are_refused(tiny_model, setting, message):
    with pytest.raises(ValueError, match=message):
        measure_batches(tiny_model, **{**SMALL, **setting})
