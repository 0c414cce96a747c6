"""The posterior against the textbook's conjugate cases, and draws against their moments."""

import numpy as np
import pytest

from coursekit.optimizers.posterior import ErrorSd, pooled_noise_sd, posterior

SIZES = np.array([64.0, 128.0, 256.0, 4096.0])
PREDICTED = np.array([1.0, 2.0, 3.0, 4.0])
ONE, NONE = np.ones(4), np.array([], int)


def test_without_measurements_it_is_the_prediction():
    found = posterior(SIZES, PREDICTED, NONE, np.array([]), ONE, ErrorSd(0.3, 0.4, 0.0), ONE)
    assert (found.mean == PREDICTED).all()
    assert found.sd == pytest.approx([0.5] * 4)


def test_errors_of_each_size_alone_are_updated_as_a_normal_mean():
    at, seen = np.array([1, 1]), np.array([2.5, 2.7])
    found = posterior(SIZES, PREDICTED, at, seen, 0.2 * ONE, ErrorSd(0, 0, 0.5), ONE)
    precision = 1 / 0.5**2 + 2 / 0.2**2
    assert found.mean[1] == pytest.approx((2.0 / 0.5**2 + 5.2 / 0.2**2) / precision)
    assert found.sd[1] == pytest.approx(precision**-0.5)
    assert found.mean[[0, 2, 3]] == pytest.approx(PREDICTED[[0, 2, 3]])


def test_a_bias_moves_all_sizes_by_their_units():
    unit = np.array([1.0, 2.0, 3.0, 4.0])
    found = posterior(
        SIZES, PREDICTED, np.array([0]), np.array([1.1]), 1e-6 * ONE, ErrorSd(0.2, 0, 0), unit
    )
    assert found.mean == pytest.approx(1.1 * PREDICTED, rel=1e-3)


def test_a_drift_is_shared_with_near_sizes_more_than_with_far_ones():
    found = posterior(
        SIZES, PREDICTED, np.array([0]), np.array([1.4]), 0.01 * ONE, ErrorSd(0, 0.2, 0), ONE
    )
    moved = found.mean - PREDICTED
    assert moved[0] > moved[1] > moved[2] > moved[3] > 0
    assert found.sd[0] < found.sd[1] < found.sd[2] < found.sd[3]


def test_draws_have_the_mean_and_the_covariance():
    found = posterior(
        SIZES, PREDICTED, np.array([2]), np.array([3.3]), 0.1 * ONE, ErrorSd(0.3, 0.2, 0.1), ONE
    )
    drawn = found.draw(200_000, np.random.default_rng(0))
    assert drawn.mean(axis=0) == pytest.approx(found.mean, abs=0.005)
    assert np.cov(drawn.T) == pytest.approx(found.covariance, abs=0.002)


def test_repeats_correct_the_noise_that_was_expected():
    expected, generator = 0.1 * ONE, np.random.default_rng(1)
    assert pooled_noise_sd(np.array([0, 1]), np.array([1.0, 9.0]), expected) == pytest.approx(0.1)
    at = np.repeat([0, 3], 1000)
    noisy = pooled_noise_sd(at, generator.normal(0, 0.4, 2000), expected)
    calm = pooled_noise_sd(at, generator.normal(0, 0.01, 2000), expected)
    assert noisy == pytest.approx(0.4 * ONE, rel=0.06) and (calm < 0.03).all()
