"""The sketch: every quantile within the promised error, extremes and means exact, memory constant."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.monitor import QuantileSketch
from coursekit.monitor.sketch import MAX_BINS

# a nanosecond to three hours: the range that the bins cover; what is beyond has a test of its own
values_s = st.lists(st.just(0.0) | st.floats(1e-9, 1e4), min_size=1, max_size=300)
thorough = settings(max_examples=150, deadline=None, derandomize=True)


def exact(values, percent: float) -> float:
    """The value at rank floor(percent / 100 * (n - 1))."""
    return float(np.percentile(values, percent, method="lower"))


@thorough
@given(values=values_s, percent=st.floats(0, 100), error=st.sampled_from([0.002, 0.01, 0.1]))
def test_a_percentile_is_within_the_promised_error(values, percent, error):
    sketch = QuantileSketch(error, max_bins=20_000)
    for value in values:
        sketch.add(value)
    found, truth = sketch.percentile(percent), exact(values, percent)
    assert abs(found.value - truth) <= error * truth * (1 + 1e-9)
    assert found.low * (1 - 1e-9) <= truth <= found.high * (1 + 1e-9)


@thorough
@given(values=values_s, data=st.data())
def test_an_array_counts_as_its_values_one_by_one(values, data):
    weights = data.draw(st.lists(st.integers(1, 5), min_size=len(values), max_size=len(values)))
    one_by_one, at_once = QuantileSketch(), QuantileSketch()
    for value, weight in zip(values, weights):
        for _ in range(weight):
            one_by_one.add(value)
    at_once.add_many(values, weights)
    repeated = np.repeat(values, weights)
    assert at_once.count == one_by_one.count == len(repeated)
    assert at_once.total == pytest.approx(one_by_one.total)
    assert (at_once.least, at_once.largest) == (min(values), max(values))
    for percent in (0, 50, 99, 100):
        truth = exact(repeated, percent)
        assert abs(at_once.percentile(percent).value - truth) <= 0.01 * truth * (1 + 1e-9)


def test_count_mean_and_extremes_are_exact():
    sketch = QuantileSketch()
    sketch.add_many([0.1, 0.2])
    sketch.add(0.6)
    spread = sketch.spread()
    assert (spread.n, spread.largest.value) == (3, 0.6)
    assert spread.mean == pytest.approx(0.3)


def test_without_values_nothing_is_known():
    spread = QuantileSketch().spread()
    assert spread.n == 0 and math.isnan(spread.mean) and math.isnan(spread.p99.value)


def test_memory_is_bounded_whatever_comes():
    random, sketch, sizes = np.random.default_rng(0), QuantileSketch(), []
    for many in (100_000, 900_000):
        sketch.add_many(10 ** random.uniform(-12, 12, many))
        sizes.append(len(pickle.dumps((sketch._sketch, sketch.count, sketch.total))))
    assert sizes[1] == sizes[0] and sketch._sketch._store.length() == MAX_BINS


def test_beyond_the_bins_only_the_lowest_lose_their_error():
    values, sketch = [1e-30] * 3 + [0.1, 0.2, 0.4], QuantileSketch()
    sketch.add_many(values)
    assert sketch.percentile(100).value == pytest.approx(0.4, rel=0.01)
    assert sketch.percentile(80).value == pytest.approx(0.2, rel=0.01)
    assert sketch.percentile(0).value > 1e-30 and sketch.least == 1e-30


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_what_is_no_duration_is_refused_and_changes_nothing(value):
    sketch = QuantileSketch()
    with pytest.raises(ValueError, match="finite and >= 0"):
        sketch.add(value)
    with pytest.raises(ValueError, match="finite and >= 0"):
        sketch.add_many([1.0, value])
    assert sketch.count == 0 and math.isnan(sketch.percentile(50).value)


@pytest.mark.parametrize("weights", [[1], [1, 0], [1.0, 1.0]])
def test_weights_that_fit_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        QuantileSketch().add_many([1.0, 2.0], weights)


@pytest.mark.parametrize("error", [0, 1, -0.1])
def test_an_error_out_of_range_is_refused(error):
    with pytest.raises(ValueError, match="relative_error"):
        QuantileSketch(error)
