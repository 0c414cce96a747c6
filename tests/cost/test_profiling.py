"""Recorded profiles: measured, resumed after an interrupt, and shipped only as measured."""

import json

import pytest

from coursekit.cost import CalibratedCost, MeasuredIteration, profiles, recorded_cost
from coursekit.cost import profiling
from coursekit.models import build_model
from tests.live.tiny_folder import write_tiny_model

LIMITS = (32, 4, 64)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    return str(write_tiny_model(folder, build_model(tiny_config, seed=1)))


def test_a_profile_holds_what_was_measured_and_can_be_simulated_with(tiny_folder, tmp_path):
    out = profiling.profile("torch", tiny_folder, tmp_path / "a" / "p.json", 2, LIMITS)
    raw = json.loads(out.read_text())
    assert raw["model"] == "model, torch" and raw["software"]["torch"] and raw["date"]
    assert len(raw["measured"]) == raw["residuals"]["num_batches"] > 20
    assert all(row["median_s"] > 0 and row["spread"] >= 0 for row in raw["measured"])
    assert CalibratedCost.load(out).iteration_s(2, 40, [(None, 16, 16)]) > 0
    assert list(out.parent.iterdir()) == [out]


def test_an_interrupted_call_goes_on_where_it_was(tiny_folder, tmp_path, monkeypatch):
    measured, real = [], profiling.measure_scene

    def interrupted(engine, scene, rounds):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(scene)
        return real(engine, scene, rounds)

    out = tmp_path / "p.json"
    monkeypatch.setattr(profiling, "measure_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        profiling.profile("torch", tiny_folder, out, 1, LIMITS)
    assert not out.exists()
    again = []
    monkeypatch.setattr(
        profiling, "measure_scene", lambda *args: again.append(args[1]) or real(*args)
    )
    profiling.profile("torch", tiny_folder, out, 1, LIMITS)
    assert out.exists() and not set(again) & set(measured)
    num_scenes = len(again) + len(measured)
    again.clear()
    profiling.profile("torch", tiny_folder, out, 1, LIMITS)
    assert len(again) == num_scenes  # a finished one is measured anew


@pytest.mark.parametrize("name", profiles())
def test_a_shipped_profile_is_the_fit_to_its_own_measurements(name):
    shipped = recorded_cost(name).profile
    assert shipped.date and shipped.software and shipped.measured
    rows = [
        MeasuredIteration(
            row["num_decodes"], row["decode_context"],
            [(None, size, context) for size, context in row["chunks"]], row["median_s"],
        )
        for row in shipped.measured
    ]  # fmt: skip
    again = CalibratedCost.fit(rows).profile
    assert again.coefficients == pytest.approx(shipped.coefficients, rel=1e-6, abs=1e-12)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="rounds must be >= 1, got 0"):
        profiling.profile("torch", rounds=0)
    with pytest.raises(ValueError, match="unknown profile 'mars'; known: "):
        recorded_cost("mars")
