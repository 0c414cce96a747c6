"""Drawn workloads: the right mean and spread, the same for the same seed."""

import math

import numpy as np
import pytest

from coursekit.workload import constant, fixed, gamma, lognormal, module_mix, poisson


def gaps(arrivals):
    return np.diff(arrivals, prepend=0.0)


@pytest.mark.parametrize(
    "arrivals, cv",
    [(poisson(4, 20_000, 1), 1), (gamma(4, 3, 20_000, 1), 3), (gamma(4, 0.5, 20_000, 1), 0.5)],
    ids=["poisson", "bursts", "even"],
)
def test_gaps_have_the_asked_mean_and_spread(arrivals, cv):
    assert arrivals.shape == (20_000,) and gaps(arrivals).min() >= 0 and arrivals[0] > 0
    assert gaps(arrivals).mean() == pytest.approx(0.25, rel=0.1)
    assert gaps(arrivals).std() / gaps(arrivals).mean() == pytest.approx(cv, rel=0.1)


def test_poisson_gaps_are_exponential():
    share_above_mean = (gaps(poisson(2, 20_000, 3)) > 0.5).mean()
    assert share_above_mean == pytest.approx(math.exp(-1), abs=0.02)


def test_constant_gaps():
    assert constant(4, 3).tolist() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: poisson(1, 50, seed),
        lambda seed: gamma(1, 2, 50, seed),
        lambda seed: lognormal(50, 100, 400, 1, 10_000, seed),
        lambda seed: module_mix(50, seed)[0],
    ],
    ids=["poisson", "gamma", "lognormal", "module_mix"],
)
def test_the_seed_decides(draw):
    assert np.array_equal(draw(5), draw(5))
    assert not np.array_equal(draw(5), draw(6))


def test_fixed():
    assert fixed(3, 7).tolist() == [7, 7, 7] and fixed(3, 7).dtype == np.int64


def test_lognormal_has_the_asked_percentiles():
    lengths = lognormal(20_000, 200, 1000, 1, 10**9, 2)
    assert lengths.dtype == np.int64
    assert np.percentile(lengths, [50, 90]) == pytest.approx([200, 1000], rel=0.1)


def test_lognormal_is_clipped_inclusively():
    lengths = lognormal(2_000, 200, 1000, 50, 800, 2)
    assert (lengths.min(), lengths.max()) == (50, 800)


def test_lognormal_without_spread():
    assert set(lognormal(10, 9, 9, 1, 100).tolist()) == {9}


def test_module_mix_is_a_third_each_in_mixed_order():
    prompts, outputs = module_mix(301, 0)
    kinds = list(zip(prompts.tolist(), outputs.tolist(), strict=True))
    counts = [kinds.count(kind) for kind in [(8000, 100), (3, 50), (200, 80)]]
    assert sorted(counts) == [100, 100, 101]
    assert kinds[:3] * 100 != kinds[:300]


@pytest.mark.parametrize(
    "call, reason",
    [
        (lambda: poisson(0, 1), "rate must be finite and > 0, got 0: "),
        (lambda: poisson(-1, 1), "rate .* got -1"),
        (lambda: poisson(math.inf, 1), "rate .* got inf"),
        (lambda: poisson(math.nan, 1), "rate .* got nan"),
        (lambda: poisson(1, 0), "n must be >= 1, got 0"),
        (lambda: poisson(1, 2.5), "n must be an integer, got 2.5"),
        (lambda: gamma(0, 1, 1), "rate .* got 0"),
        (lambda: gamma(1, 0, 1), r"cv .* got 0: for even spacing call constant\(rate, n\)"),
        (lambda: constant(0, 1), "rate .* got 0"),
        (lambda: constant(1, 0), "n must be >= 1"),
        (lambda: fixed(0, 1), "n must be >= 1, got 0"),
        (lambda: fixed(1, 0), "tokens must be >= 1, got 0"),
        (lambda: lognormal(1, 0, 1, 1, 2), "median must be finite and > 0, got 0"),
        (lambda: lognormal(1, 10, 9, 1, 20), "p90 must be finite and >= median 10, got 9"),
        (lambda: lognormal(1, 10, 20, 0, 20), "low must be >= 1, got 0"),
        (lambda: lognormal(1, 10, 20, 9, 8), "high must be >= low 9, got 8"),
        (lambda: module_mix(0), "n must be >= 1, got 0"),
    ],
)
def test_bad_arguments(call, reason):
    with pytest.raises(ValueError, match=reason):
        call()
