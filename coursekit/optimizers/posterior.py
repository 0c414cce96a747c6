"""What a few noisy measurements say about all sizes, given a prediction for each.

The true curve is taken to be the prediction plus a smooth error, a Gaussian process over the
logarithm of the size (Rasmussen and Williams 2006, chapter 2): a bias common to all sizes, a
drift that neighbours share, and an error of each size's own, for a percentile may jump from one
size to the next. So a measurement corrects its neighbours too, and less the further off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LENGTH = 2.0  # octaves of size over which the prediction's error changes
JITTER = 1e-10


class ErrorSd(NamedTuple):
    """How far off predictions may be: of all sizes together, of neighbours, of each by itself."""

    bias: float
    drift: float
    own: float


class Posterior(NamedTuple):
    """Mean (num_sizes,) and covariance (num_sizes, num_sizes) of the true curve."""

    mean: np.ndarray
    covariance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance).clip(0))

    def draw(self, num_draws: int, generator: np.random.Generator) -> np.ndarray:
        """Curves as they may be, (num_draws, num_sizes)."""
        # by the eigenvectors: the covariance may have lost its last digits and be no more definite
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(values.clip(0))
        return self.mean + generator.standard_normal((num_draws, len(values))) @ root.T


def posterior(
    sizes: np.ndarray,
    predicted: np.ndarray,
    at: np.ndarray,
    measured: np.ndarray,
    noise_sd: np.ndarray,
    error: ErrorSd,
    unit: np.ndarray,
) -> Posterior:
    """The curve after measurements.

    sizes, predicted: (num_sizes,); at: index of the size of each measurement, (n,); measured:
    (n,); noise_sd: of a measurement, by size, (num_sizes,); error: of the prediction, in units
    of `unit`, (num_sizes,).
    """
    octaves = np.log2(sizes)
    distance = (octaves[:, None] - octaves[None, :]) / LENGTH
    shared = error.bias**2 + error.drift**2 * np.exp(-(distance**2) / 2)
    prior = np.outer(unit, unit) * (shared + error.own**2 * np.eye(len(sizes)))
    if not len(at):
        return Posterior(predicted.copy(), prior)
    between = prior[:, at]  # (num_sizes, n)
    own = prior[np.ix_(at, at)] + np.diag(noise_sd[at] ** 2 + JITTER)
    gain = np.linalg.solve(own, between.T).T  # (num_sizes, n)
    return Posterior(predicted + gain @ (measured - predicted[at]), prior - gain @ between.T)


def pooled_noise_sd(
    at: np.ndarray, measured: np.ndarray, expected_sd: np.ndarray, weight: float = 3.0
) -> np.ndarray:
    """Noise of one measurement by size, (num_sizes,), from repeats and from what is expected.

    expected_sd: (num_sizes,), worth `weight` degrees of freedom; repeats, all sizes together,
    scale it up or down: the posterior mean of a scaled inverse chi-squared variance, roughly.
    """
    scaled, freedom = 0.0, 0
    for place in np.unique(at):
        same = measured[at == place]
        scaled += float(((same - same.mean()) ** 2).sum() / expected_sd[place] ** 2)
        freedom += len(same) - 1
    return expected_sd * np.sqrt((weight + scaled) / (weight + freedom))
