"""Fitting a cost to measured iterations: what it recovers, what it refuses, what it admits."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.cost import CalibratedCost, MeasuredIteration
from coursekit.cost.calibrate import draw_batches
from coursekit.cost.calibrated import TERMS, count, nonnegative_least_squares

TRUTH = {
    "iteration": 0.02, "token": 1e-5, "token_over_knee": 2e-4, "pair": 3e-8, "context": 1e-7,
    "sequence": 2e-4, "prefill": 3e-3,
}  # fmt: skip
KNEE = 180


def true_s(num_decodes, decode_context, chunks) -> float:
    counts = count(num_decodes, decode_context, chunks)
    return (
        TRUTH["iteration"] + TRUTH["token"] * counts.tokens
        + TRUTH["token_over_knee"] * max(0, counts.tokens - KNEE) + TRUTH["pair"] * counts.pairs
        + TRUTH["context"] * counts.context + TRUTH["sequence"] * counts.sequences
        + TRUTH["prefill"] * (counts.pairs > 0)
    )  # fmt: skip


def batches(num=40, seed=0, noise=0.0) -> list[MeasuredIteration]:
    generator = np.random.default_rng(seed)
    measured = []
    for contexts, chunks in draw_batches(num, 1024, 4096, 64, generator):
        counts = len(contexts), sum(contexts), [(None, *chunk) for chunk in chunks]
        factor = float(np.exp(noise * generator.standard_normal()))
        measured.append(MeasuredIteration(*counts, true_s(*counts) * factor))
    return measured


@pytest.fixture(scope="module")
def cost():
    return CalibratedCost.fit(
        batches(), "a model", "a device", "2026-01-01", {"torch": "2.13.0"}
    )


def test_it_recovers_a_cost_of_its_own_form(cost):
    assert cost.profile.residuals.worst < 0.01
    errors = [abs(cost.iteration_s(*b[:3]) / b.seconds - 1) for b in batches(200, seed=1)]
    assert max(errors) < 0.01
    assert abs(cost.profile.knee_tokens - KNEE) < 10


def test_it_recovers_every_coefficient_if_there_is_no_knee(monkeypatch):
    monkeypatch.setitem(TRUTH, "token_over_knee", 0.0)
    found = CalibratedCost.fit(batches()).profile.coefficients
    for term in TERMS:
        assert found[term] == pytest.approx(TRUTH[term], rel=1e-6, abs=1e-15)


def test_noise_in_the_times_stays_noise_on_batches_it_has_not_seen():
    profile = CalibratedCost.fit(batches(noise=0.05)).profile
    assert profile.held_out.num_batches == 40
    assert profile.held_out.median < 0.08 and profile.held_out.worst < 0.35
    assert all(value >= 0 for value in profile.coefficients.values())


def test_a_profile_survives_its_file(cost, tmp_path):
    cost.save(tmp_path / "profile.json")
    again = CalibratedCost.load(tmp_path / "profile.json")
    assert again.profile == cost.profile and again.label == cost.label
    assert again.iteration_s(3, 999, [(None, 77, 5)]) == cost.iteration_s(3, 999, [(None, 77, 5)])
    raw = json.loads((tmp_path / "profile.json").read_text())
    assert raw["device"] == "a device" and raw["date"] == "2026-01-01"
    assert raw["software"] == {"torch": "2.13.0"} and raw["highest"]["tokens"] == 1088


def test_an_iteration_with_a_chunk_pays_once_for_its_kernels(cost):
    added = cost.iteration_s(2, 100, [(None, 2, 0)]) - cost.iteration_s(2, 100, [(None, 1, 0)])
    again = cost.iteration_s(2, 100, [(None, 2, 0)] * 2) - cost.iteration_s(2, 100, [(None, 2, 0)])
    assert added > 0.9 * TRUTH["prefill"] and again < 0.2 * TRUTH["prefill"]


def test_a_profile_from_before_that_term_is_read_without_it(cost, tmp_path):
    cost.save(tmp_path / "old.json")
    raw = json.loads((tmp_path / "old.json").read_text())
    del raw["coefficients"]["prefill"]
    (tmp_path / "old.json").write_text(json.dumps(raw))
    old = CalibratedCost.load(tmp_path / "old.json")
    assert old.iteration_s(3, 99, ()) == cost.iteration_s(3, 99, ())
    assert old.iteration_s(0, 0, [(None, 64, 0)]) < cost.iteration_s(0, 0, [(None, 64, 0)])


def test_its_label_says_what_was_calibrated_and_when(cost):
    assert cost.label == "simulated (a device, a model, calibrated 2026-01-01)"


@pytest.mark.parametrize("damage", ["nonsense", "{}", "[]", "format", "negative", "missing"])
def test_a_file_that_is_no_profile_is_refused_by_name(cost, tmp_path, damage):
    path = tmp_path / "broken.json"
    cost.save(path)
    raw = json.loads(path.read_text())
    if damage == "format":
        raw["format"] = "something else"
    elif damage == "negative":
        raw["coefficients"]["pair"] = -1.0
    elif damage == "missing":
        del raw["coefficients"]["pair"]
    text = json.dumps(raw) if damage in ("format", "negative", "missing") else damage
    path.write_text(text)
    with pytest.raises(ValueError, match="broken.json is not a cost profile"):
        CalibratedCost.load(path)


def test_inside_the_calibrated_range_it_is_silent():
    cost = CalibratedCost.fit(batches())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches():
            cost.iteration_s(*batch[:3])
        cost.decode_run_s(64, 64 * 3000, 100)
    assert not cost.extrapolated


@pytest.mark.parametrize(
    "batch, message",
    [
        ((0, 0, [(None, 5000, 0)]), "5000 tokens .calibrated 1..1088"),
        ((64, 10**6, ()), "1000064 context"),
        ((0, 0, [(None, 1000, 9000)]), "pairs"),
        ((66, 100, ()), "66 sequences"),
    ],
)
def test_beyond_the_range_it_warns_once_and_says_so_ever_after(batch, message):
    cost = CalibratedCost.fit(batches())
    with pytest.warns(UserWarning, match=message):
        cost.iteration_s(*batch)
    assert cost.extrapolated
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cost.iteration_s(*batch)


def test_a_run_of_decodes_that_grows_beyond_the_range_warns_too():
    cost = CalibratedCost.fit(batches())
    with pytest.warns(UserWarning, match="extrapolated"):
        cost.decode_run_s(64, 64 * 4096 - 640, 1000)
    assert cost.extrapolated


def test_too_few_batches_are_refused():
    with pytest.raises(ValueError, match="at least 14 measured batches, got 5"):
        CalibratedCost.fit(batches()[:5])


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_times_are_refused_with_their_row(seconds):
    bad = batches()
    bad[7] = bad[7]._replace(seconds=seconds)
    with pytest.raises(ValueError, match="measured batch 7: seconds must be finite and > 0"):
        CalibratedCost.fit(bad)


@pytest.mark.parametrize(
    "counts, message",
    [
        ((-1, 0, []), "num_decodes and decode_context"),
        ((0, 10, []), "num_decodes and decode_context"),
        ((0, 0, []), "at least 1 token"),
        ((1, 5, [(None, 0, 3)]), "num_tokens >= 1"),
        ((1, 5, [(None, 4, -3)]), "context >= 0"),
    ],
)
def test_impossible_counts_are_refused_with_their_row(counts, message):
    bad = batches()
    bad[3] = MeasuredIteration(*counts, 0.1)
    with pytest.raises(ValueError, match=f"measured batch 3: .*{message}"):
        CalibratedCost.fit(bad)


def test_batches_that_say_nothing_about_a_term_are_refused():
    decodes = [b for b in batches(120) if not b.chunks]
    chunks = [b for b in batches(120) if not b.num_decodes]
    with pytest.raises(ValueError, match="no measured batch has a chunk"):
        CalibratedCost.fit(decodes)
    with pytest.raises(ValueError, match="no measured batch has a decode"):
        CalibratedCost.fit(chunks)


def test_batches_that_grow_all_together_are_refused():
    same = [
        MeasuredIteration(n, 100 * n, [(None, 10, 0)] * n, 0.01 * n) for n in range(1, 40)
    ]
    with pytest.raises(ValueError, match="don't tell .* apart"):
        CalibratedCost.fit(same)


@given(seed=st.integers(0, 10**6), size=st.integers(1, 5))
def test_nonnegative_least_squares_meets_the_conditions_of_an_optimum(seed, size):
    generator = np.random.default_rng(seed)
    columns, target = generator.standard_normal((12, size)), generator.standard_normal(12)
    x, error = nonnegative_least_squares(columns, target)
    gradient = columns.T @ (columns @ x - target)
    assert (x >= 0).all() and (gradient > -1e-8).all()
    assert abs(gradient @ x) < 1e-8
    assert error == pytest.approx(np.sum((columns @ x - target) ** 2))
