"""The knee: found where it was put, and said to be missing where there is none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.analyzers import Knee, find_knee
from coursekit.analyzers.findings import describe_knee

SIZES = [1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]


def times(floor=0.01, below=0.0, above=1e-4, corner=100, square=0.0, noise=0.0, sizes=SIZES):
    n = np.array(sizes, float)
    seconds = floor + below * n + (above - below) * np.maximum(0, n - corner) + square * n**2
    return seconds * (1 + noise * np.random.default_rng(0).standard_normal(len(n)))


@settings(max_examples=40, deadline=None)
@given(
    floor=st.floats(1e-4, 1.0), corner=st.floats(20, 900), slope=st.floats(0.3, 20),
    square=st.floats(0, 1e-3),
)  # fmt: skip
def test_it_is_found_where_it_was_put(floor, corner, slope, square):
    above = slope * floor / corner  # a token's cost, in floors per corner
    knee = find_knee(SIZES, times(floor, 0.0, above, corner, square * above))
    assert knee.reason == "" and knee.tokens == pytest.approx(corner, rel=0.05)
    assert knee.floor_s == pytest.approx(floor, rel=0.02)
    assert knee.above_s == pytest.approx(above, rel=0.05)


def test_noise_of_a_live_device_moves_it_a_little():
    knee = find_knee(SIZES, times(noise=0.03))
    assert knee.tokens == pytest.approx(100, rel=0.25)


def test_overlap_and_sum_of_reading_and_computing():
    n = np.array(SIZES, float)
    overlapped = find_knee(SIZES, np.maximum(0.01, 1e-4 * n))
    assert overlapped.tokens == pytest.approx(100, rel=0.02)
    added = find_knee(SIZES, 0.01 + 1e-4 * n)  # no knee: every token is paid for at once
    assert added.reason == "dear" and np.isnan(added.tokens)
    assert added.doubled_at == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize(
    "seconds, reason, said",
    [
        (times(), "", "The knee lies at 100 tokens: up to there an iteration takes about 10 ms"),
        (times(above=0.0, square=1e-7), "free", "costs nothing here but its attention"),
        (times(below=1e-6, above=1e-6), "flat", "even 2,048 tokens compute for less than the"),
        (times(above=1e-6), "flat", "even 2,048 tokens compute for less than the 10 ms"),
        (times(below=2e-4, above=2e-4), "dear", "from the first one on, 200 µs each, and 50 of"),
    ],
)
def test_the_words_say_what_was_found_or_why_nothing_was(seconds, reason, said):
    knee = find_knee(SIZES, seconds, label="simulated (test)", ridge_tokens=153)
    assert knee.reason == reason and said in describe_knee(knee)
    assert np.isnan(knee.tokens) == bool(reason)
    assert describe_knee(knee).endswith("The roofline's ridge lies at 153 tokens.")
    assert "ridge" not in describe_knee(find_knee(SIZES, seconds))


def test_a_corner_that_is_half_as_dear_before_is_no_knee():
    """Planted: a break in the line is there, but tokens below it are not nearly free."""
    knee = find_knee(SIZES, times(below=5e-5, above=1e-4, corner=200))
    assert knee.corner == pytest.approx(200, rel=0.1) and knee.reason == "dear"


def test_the_table_holds_times_spread_and_fit():
    knee = find_knee(SIZES, times(), spread=[0.1] * len(SIZES), label="live (test)")
    assert isinstance(knee, Knee) and knee.table.attrs["label"] == knee.label == "live (test)"
    assert knee.table.num_tokens.tolist() == SIZES and (knee.table.spread == 0.1).all()
    np.testing.assert_allclose(knee.table.fitted_s, knee.table.seconds, rtol=1e-3)


@pytest.mark.parametrize(
    "sizes, seconds, message",
    [
        (SIZES[:7], times()[:7], "at least 8 sizes, got 7"),
        ([0, *SIZES[1:]], times(), "must be >= 1 and rise"),
        (SIZES[::-1], times(), "must be >= 1 and rise"),
        (SIZES, -times(), "finite and > 0"),
    ],
)
def test_what_can_not_be_fitted_is_refused(sizes, seconds, message):
    with pytest.raises(ValueError, match=message):
        find_knee(sizes, seconds)
