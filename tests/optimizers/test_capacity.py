"""The search for a capacity: right on verdicts of all kinds, and honest about the odd ones."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.live import TorchEngine
from coursekit.optimizers.capacity import (
    ALWAYS, BRACKETED, NEVER, TIRED, capacity_of, find_capacity,
)  # fmt: skip
from coursekit.optimizers.rules import CapacityRule, Limit, sarathi_rule
from coursekit.schedulers import StallFree
from coursekit.simulate import simulate
from coursekit.workload import Workload, poisson


@given(limit=st.floats(1e-2, 1e3), start=st.floats(0.05, 200), tolerance=st.floats(0.005, 0.5))
def test_a_clear_limit_is_found_within_the_tolerance(limit, start, tolerance):
    found = find_capacity(lambda rate: rate <= limit, start, max_trials=50, tolerance=tolerance)
    if limit < start / 1024 or limit > start * 1024:
        assert found.status in (NEVER, ALWAYS)
        return
    assert found.status == BRACKETED and found.held_above_per_s is None and not found.is_noisy
    assert found.rate_per_s <= limit < found.fails_at_per_s
    assert found.fails_at_per_s <= found.rate_per_s * (1 + tolerance)


@given(
    verdicts=st.lists(st.booleans(), min_size=60, max_size=60), start=st.floats(1e-3, 1e3),
    most=st.integers(1, 40), repeats=st.sampled_from([1, 3, 5]), above=st.integers(0, 3),
)  # fmt: skip
def test_whatever_the_verdicts_it_ends_in_time_and_claims_only_what_it_saw(
    verdicts, start, most, repeats, above
):
    answers = iter(verdicts)
    found = find_capacity(lambda rate: next(answers), start, max_trials=most, repeats=repeats,
                          look_around=above)  # fmt: skip
    assert 1 <= len(found.trials) <= most
    assert [trial.held for trial in found.trials] == verdicts[: len(found.trials)]
    assert found.rate_per_s < found.fails_at_per_s
    held = {trial.rate_per_s for trial in found.trials if trial.held}
    assert found.rate_per_s == 0 or found.rate_per_s in held
    if found.status == BRACKETED:
        assert found.fails_at_per_s <= found.rate_per_s * 1.02 * (1 + 1e-12)


def test_a_rule_that_never_holds_is_an_answer():
    found = find_capacity(lambda rate: False, 3.0)
    assert (found.rate_per_s, found.status) == (0.0, NEVER)
    assert found.fails_at_per_s == pytest.approx(3.0 / 1024) and len(found.trials) == 11


def test_a_rule_that_always_holds_is_an_answer():
    found = find_capacity(lambda rate: True, 3.0)
    assert (found.rate_per_s, found.fails_at_per_s) == (3.0 * 1024, math.inf)
    assert found.status == ALWAYS


@pytest.mark.parametrize("holds", [lambda rate: True, lambda rate: rate < 1.7])
def test_running_out_of_trials_is_said(holds):
    found = find_capacity(holds, 1.0, max_trials=3)
    assert found.status == TIRED and len(found.trials) == 3 and found.rate_per_s >= 1.0


def test_a_rate_that_holds_above_one_that_fails_is_reported_and_not_taken():
    found = find_capacity(lambda rate: rate <= 1.0 or 1.2 <= rate <= 1.3, 0.75)
    assert found.rate_per_s == pytest.approx(1.0, rel=0.02)
    assert 1.2 <= found.held_above_per_s <= 1.3 and "it held at" in str(found)
    assert found.failed_below_per_s is None


def test_a_rate_that_fails_below_one_that_holds_is_reported():
    found = find_capacity(lambda rate: rate <= 1.0 or 1.2 <= rate <= 1.4, 0.9)
    assert found.rate_per_s == pytest.approx(1.4, rel=0.02)
    assert 1.0 < found.failed_below_per_s < 1.2 and "it failed at" in str(found)


def test_noisy_verdicts_are_settled_by_majority_and_seen_to_be_noisy():
    def search(repeats, seed):
        coin = random.Random(seed)
        return find_capacity(
            lambda rate: (rate <= 5.0) != (coin.random() < 0.15), 1.0, max_trials=400,
            repeats=repeats, look_around=0,
        )  # fmt: skip

    off = {
        repeats: [abs(search(repeats, seed).rate_per_s / 5 - 1) > 0.05 for seed in range(60)]
        for repeats in (1, 9)
    }
    assert sum(off[9]) <= 6 < sum(off[1])
    assert search(9, 0).is_noisy


def test_a_decided_majority_saves_the_other_runs():
    found = find_capacity(lambda rate: rate <= 1.0, 1.0, max_trials=4, repeats=5)
    assert [trial.rate_per_s for trial in found.trials] == [1.0, 1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"start_rate_per_s": 0.0}, "start_rate_per_s must be finite and > 0, got 0.0"),
        ({"start_rate_per_s": -1.0}, "got -1.0: give a rate near"),
        ({"start_rate_per_s": math.inf}, "got inf"),
        ({"max_trials": 0}, "max_trials must be >= 1, got 0"),
        ({"tolerance": 0.0}, r"tolerance must be in \(0, 1\), got 0.0"),
        ({"repeats": 2}, "repeats must be odd and >= 1, got 2"),
        ({"look_around": -1}, "look_around must be >= 0, got -1"),
    ],
)
def test_bad_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        find_capacity(lambda rate: True, **{"start_rate_per_s": 1.0, **arguments})


def test_it_finds_the_capacity_of_simulated_runs_and_carries_the_rule():
    rule = sarathi_rule(0.1)

    def serve(rate_per_s):
        arrivals = poisson(rate_per_s, 300, seed=1)
        return simulate(Workload(arrivals, [900] * 300, [60] * 300))

    found = capacity_of(serve, rule, 1.0)
    assert found.status == BRACKETED and found.rule == rule.name in str(found)
    assert rule.holds(serve(found.rate_per_s)) and not rule.holds(serve(found.fails_at_per_s))


def test_it_finds_the_capacity_of_a_live_engine(tiny_model):
    """A real clock: too few requests for a fine answer, enough for a slow and a fast rate."""
    engine = TorchEngine(tiny_model, StallFree(64, 8), max_model_len=64)

    def serve(rate_per_s):
        lengths = np.full(6, 8)
        return engine.run(Workload(poisson(rate_per_s, 6), lengths, lengths).source())

    rule = CapacityRule((Limit("ttft_s", 50, 30.0),))
    found = capacity_of(serve, rule, 20.0, max_trials=2)
    assert [trial.held for trial in found.trials] == [True, True] and found.status == TIRED
    never = capacity_of(serve, CapacityRule((Limit("ttft_s", 50, 1e-9),)), 200.0, max_trials=2)
    assert never.rate_per_s == 0.0 and never.status == TIRED
    engine.close()
