"""A server's /metrics, read: samples by name and labels, and what their counters gained.

Prometheus text format, parsed by prometheus_client. One URL is taken to be one process: if any of
its counters fell, or its start time changed, all of them began anew at 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf, nan
from typing import NamedTuple

from coursekit.monitor.estimate import NOTHING_SEEN, UNKNOWN, Estimate, Spread

Series = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name, and its labels in order
STARTED = "process_start_time_seconds"


@dataclass(frozen=True, slots=True)
class Scrape:
    """One look at /metrics. at_s: on the reader's monotonic clock.

    counts: samples that only grow (counters, and buckets, sums and counts of histograms); levels:
    gauges; by series.
    """

    at_s: float
    counts: dict[Series, float] = field(default_factory=dict)
    levels: dict[Series, float] = field(default_factory=dict)

    def level(self, name: str, combine=sum) -> float:
        """A gauge over all its label sets (engines of one server); nan if there is none."""
        values = [value for (found, _), value in self.levels.items() if found == name]
        return combine(values) if values else nan

    def label(self, name: str, label: str) -> str | None:
        """A label of the first sample called `name`; None if there is none."""
        for found, labels in self.levels:
            if found == name:
                return dict(labels).get(label)
        return None


def read_metrics(text: str, at_s: float = 0.0) -> Scrape:
    """Parse a /metrics page. Raises ValueError for what is not one, or holds no sample."""
    from prometheus_client.parser import text_string_to_metric_families

    scrape = Scrape(at_s)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = (sample.name, tuple(sorted(sample.labels.items())))
                grows = family.type in ("counter", "histogram")
                grows = grows and not sample.name.endswith("_created")
                (scrape.counts if grows else scrape.levels)[series] = float(sample.value)
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"this is not a page of metrics ({error}); is the URL right?") from error
    if not scrape.counts and not scrape.levels:
        raise ValueError("this page of metrics holds no sample; is the URL right?")
    return scrape


def has_restarted(before: Scrape, after: Scrape) -> bool:
    """Whether another process answers at the URL: its start time changed, or a count fell."""
    series = (STARTED, ())
    started = before.levels.get(series), after.levels.get(series)
    if None not in started and started[0] != started[1]:
        return True
    return any(after.counts.get(key, inf) < value for key, value in before.counts.items())


def gained(before: Scrape, after: Scrape) -> dict[Series, float]:
    """What each count gained, as Prometheus' `increase` has it without its extrapolation.

    After a restart the new count is what was gained; what the old process gained after the last
    look at it is lost. A series that was not there before began at 0.
    """
    if has_restarted(before, after):
        return dict(after.counts)
    return {key: value - before.counts.get(key, 0.0) for key, value in after.counts.items()}


def add_up(gains: Iterable[dict[Series, float]]) -> dict[Series, float]:
    """Gains of consecutive stretches together, by series."""
    total = Counter()
    for gain in gains:
        total.update(gain)
    return dict(total)


class Histogram(NamedTuple):
    """Counts by bucket. bounds: upper, ascending, the last inf; counts: of values <= each."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float


def histogram(gains: dict[Series, float], name: str) -> Histogram | None:
    """The histogram `name` over all its label sets; None if there is none."""
    buckets: Counter[float] = Counter()
    total = 0.0
    for (found, labels), value in gains.items():
        if found == f"{name}_bucket":
            buckets[float(dict(labels)["le"])] += value
        elif found == f"{name}_sum":
            total += value
    if inf not in buckets:
        return None
    bounds = tuple(sorted(buckets))
    return Histogram(bounds, tuple(buckets[bound] for bound in bounds), total)


def count(gains: dict[Series, float], name: str, label: tuple[str, str] | None = None) -> float:
    """What the counter `name` gained over its label sets, or those with `label`; nan if none."""
    values = [value for (found, labels), value in gains.items()
              if found == name and (label is None or label in labels)]  # fmt: skip
    return sum(values) if values else nan


def bucket_percentile(found: Histogram, percent: float) -> Estimate:
    """A percentile as Prometheus' `histogram_quantile` has it, and the bucket it lies in.

    Linear within the bucket; in the last one the value is its lower bound, and `high` is inf.
    percent: in (0, 100]; values are taken to be >= 0. Unknown (all nan) without values.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"percent must be in (0, 100], got {percent}")
    if not found.counts[-1]:
        return UNKNOWN
    rank = percent / 100 * found.counts[-1]
    at = next(place for place, count in enumerate(found.counts) if count >= rank)
    low, below = (found.bounds[at - 1], found.counts[at - 1]) if at else (0.0, 0.0)
    high = found.bounds[at]
    if high == inf:
        return Estimate(low, low, inf)
    share = (rank - below) / (found.counts[at] - below)
    return Estimate(low + (high - low) * share, low, high)


def spread_of(found: Histogram | None) -> Spread:
    """What a histogram tells of its values: n and mean exactly, percentiles by bucket."""
    if found is None or not found.counts[-1]:
        return NOTHING_SEEN
    n = found.counts[-1]
    p50, p95, p99, largest = (bucket_percentile(found, percent) for percent in (50, 95, 99, 100))
    largest = Estimate(nan, largest.low, largest.high)
    return Spread(int(n), found.total / n, p50, p95, p99, largest, "buckets of a histogram")
