"""Quantiles of a stream in constant memory, with a promised relative error.

The sketch is DataDog's DDSketch (Masson, Rim, Lee, VLDB 2019): counts in bins of geometric width,
so that every quantile is within a relative error of the true one, the tail's as well; a sketch that
promises an error of rank (t-digest, KLL) may be far off in seconds at P99 of a long tail. This file
adds exact sums and extremes, and whole arrays at once.
"""

from __future__ import annotations

from math import inf, log1p, nan

import numpy as np
from ddsketch import LogCollapsingLowestDenseDDSketch
from ddsketch.mapping import LogarithmicMapping

from coursekit.monitor.estimate import NOTHING_SEEN, UNKNOWN, Estimate, Spread

RELATIVE_ERROR = 0.01
MAX_BINS = 2048  # at 1%: 17 powers of ten, 1 ns to 3 years; only beyond it the lowest are lumped


class QuantileSketch:
    """Counts, sum and extremes exactly, quantiles within `relative_error`; values >= 0.

    relative_error: in (0, 1). Not thread-safe: who shares one holds a lock. Raises ValueError for
    a value that is negative or not finite, and then nothing has been added.
    """

    def __init__(self, relative_error: float = RELATIVE_ERROR, max_bins: int = MAX_BINS):
        if not 0 < relative_error < 1:
            raise ValueError(f"relative_error must be in (0, 1), got {relative_error}: try 0.01")
        if max_bins < 1:
            raise ValueError(f"max_bins must be >= 1, got {max_bins}: try {MAX_BINS}")
        self.relative_error = relative_error
        self.count, self.total = 0, 0.0
        self.least, self.largest = inf, -inf
        self._sketch = LogCollapsingLowestDenseDDSketch(relative_error, max_bins)
        self._mapping = LogarithmicMapping(relative_error)
        self._keys_per_e = 1 / log1p(2 * relative_error / (1 - relative_error))
        self._add = self._sketch.add

    def add(self, value: float, weight: int = 1) -> None:
        """Count one value `weight` times."""
        if not 0 <= value < inf:
            raise ValueError(f"a value must be finite and >= 0, got {value}")
        self._add(value, weight)
        self.count += weight
        self.total += value * weight
        if value < self.least:
            self.least = value
        if value > self.largest:
            self.largest = value

    def add_many(self, values: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Count an array, each value `weight` times (once if None); weights: whole, >= 1."""
        values = np.asarray(values, float).ravel()
        if not len(values):
            return
        weights = np.ones(len(values), "i8") if weights is None else np.asarray(weights).ravel()
        check_values(values)
        _check_weights(values, weights)
        keys, sums = self._bins(values, weights)
        for key, weight in zip(keys.tolist(), sums.tolist()):
            self._add(self._mapping.value(key), weight)  # the bin's middle is in the bin
        if zeros := int(weights[values <= self._mapping.min_possible].sum()):
            self._add(0.0, zeros)
        self.count += int(weights.sum())
        self.total += float(values @ weights)
        self.least = min(self.least, float(values.min()))
        self.largest = max(self.largest, float(values.max()))

    def _bins(self, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bins that the positive values fall into, and the weight of each."""
        positive = values > self._mapping.min_possible
        keys = np.ceil(np.log(values[positive]) * self._keys_per_e).astype("i8")
        found, where = np.unique(keys, return_inverse=True)
        return found, np.bincount(where, weights[positive], len(found))

    @property
    def mean(self) -> float:
        """The exact mean; nan without values."""
        return self.total / self.count if self.count else nan

    def percentile(self, percent: float) -> Estimate:
        """The value at rank floor(percent / 100 * (n - 1)), and what it is between.

        percent: 0 to 100, or ValueError. Unknown (all nan) without values.
        """
        if not 0 <= percent <= 100:
            raise ValueError(f"percent must be in 0..100, got {percent}")
        if not self.count:
            return UNKNOWN
        value = self._sketch.get_quantile_value(percent / 100)
        error = self.relative_error
        low, high = value / (1 + error), value / (1 - error)
        inside = (min(max(part, self.least), self.largest) for part in (value, low, high))
        return Estimate(*inside)

    def spread(self) -> Spread:
        """What is known of all values so far."""
        if not self.count:
            return NOTHING_SEEN
        p50, p95, p99 = (self.percentile(percent) for percent in (50, 95, 99))
        largest = Estimate(self.largest, self.largest, self.largest)
        error = f"sketch, within {self.relative_error:.2g} of the value"
        return Spread(self.count, self.mean, p50, p95, p99, largest, error)


def check_values(values: np.ndarray) -> None:
    """Raise ValueError, naming the first bad one, unless all are finite and >= 0."""
    bad = ~((values >= 0) & (values < inf))
    if bad.any():
        raise ValueError(f"a value must be finite and >= 0, got {values[bad][0]}")


def _check_weights(values: np.ndarray, weights: np.ndarray) -> None:
    if weights.shape != values.shape:
        raise ValueError(f"{len(values)} values need as many weights, got {len(weights)}")
    if weights.dtype.kind not in "iu" or (weights < 1).any():
        raise ValueError(f"weights must be whole and >= 1, got {weights.min()} ({weights.dtype})")
