"""A number with its bounds, and what describes many numbers: the words in which readings speak."""

from __future__ import annotations

from math import inf, nan
from typing import NamedTuple


class Estimate(NamedTuple):
    """A value of which only low <= truth <= high is known; high may be inf, all nan if unknown."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(nan, nan, nan)


class Spread(NamedTuple):
    """What is known of `n` numbers: seconds, or tokens. `mean` and `n` are exact.

    p50, p95, p99: percentiles with their bounds; largest: the greatest, or what it is at most
    (`Estimate.high`) where only buckets are known. error: how the bounds came about.
    """

    n: int
    mean: float
    p50: Estimate
    p95: Estimate
    p99: Estimate
    largest: Estimate
    error: str


NOTHING_SEEN = Spread(0, nan, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, "nothing was seen")


def milliseconds(estimate: Estimate) -> str:
    """ "212 ms (200 to 300)": seconds for people, with the bounds."""
    value, low, high = (1e3 * part for part in estimate)
    bounds = f"over {low:.4g}" if high == inf else f"{low:.4g} to {high:.4g}"
    return f"{value:.4g} ms ({bounds})"
