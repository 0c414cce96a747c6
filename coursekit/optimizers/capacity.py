"""Serving capacity: the highest request rate at which a rule still holds, by bracketing.

A trial is a run, simulated or live, at one rate. The search doubles or halves until one rate
holds and one fails, then halves the distance. It supposes that more load is never better; real
verdicts are noisy, and a policy can fail at some rate and hold at a higher one. So it looks on
both sides of the bracket as well, repeats a verdict if asked to, and says what it saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from coursekit.optimizers.rules import CapacityRule
from coursekit.trace import Trace

ASIDE = 1.25  # times the bracket's ends: the rates that are looked at outside it
WIDEST = 1024.0  # times the start, or parts of it: beyond, "always" and "never" are the answers
BRACKETED, NEVER, ALWAYS, TIRED = "bracketed", "never holds", "always holds", "out of trials"


@dataclass(frozen=True, slots=True)
class Trial:
    """One run: requests per second, and whether the rule held."""

    rate_per_s: float
    held: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """The answer of a search.

    rate_per_s, fails_at_per_s: the bracket, a rate that held (0.0 if none did) and a higher one
    that failed (inf if none did); rule: what had to hold; trials: all runs in order; status:
    "bracketed" (the two are within the tolerance), "never holds", "always holds" (between
    start/1024 and 1024 start) or "out of trials", in which case the capacity lies between the
    two. held_above_per_s, failed_below_per_s: a rate above the bracket that held all the same,
    and one below it that failed, None if none was seen: then no single rate is the capacity.
    """

    rate_per_s: float
    fails_at_per_s: float
    rule: str
    trials: tuple[Trial, ...]
    status: str
    held_above_per_s: float | None = None
    failed_below_per_s: float | None = None

    @property
    def is_noisy(self) -> bool:
        """Whether runs at one rate came out both ways."""
        both = {trial.rate_per_s for trial in self.trials if trial.held}
        return any(not trial.held and trial.rate_per_s in both for trial in self.trials)

    def __str__(self) -> str:
        text = f"{self.rate_per_s:.3g} requests/s ({self.rule}; {self.status})"
        if self.held_above_per_s is not None:
            text += f", though it held at {self.held_above_per_s:.3g} again"
        if self.failed_below_per_s is not None:
            text += f", though it failed at {self.failed_below_per_s:.3g}"
        return text


def find_capacity(
    holds: Callable[[float], bool],
    start_rate_per_s: float,
    *,
    max_trials: int = 20,
    tolerance: float = 0.02,
    repeats: int = 1,
    look_around: int = 1,
    rule: str = "the caller's rule",
) -> Capacity:
    """Search for the highest rate at which `holds(rate_per_s)` is true; see `Capacity`.

    max_trials: most calls of `holds`; tolerance: of the capacity, relative; repeats: runs per
    rate, of which the majority counts (odd; a decided majority saves the rest); look_around:
    rates on each side of the bracket that are tried too, each 1.25 times further out; rule:
    what `holds` asks, for the record. Raises ValueError for a number out of range.
    """
    _check(start_rate_per_s, max_trials, tolerance, repeats, look_around)
    search = _Search(holds, max_trials, repeats)
    low, high = _bracket(search, start_rate_per_s)
    status = ALWAYS if high == math.inf else NEVER if low == 0 else BRACKETED
    while status == BRACKETED and high > low * (1 + tolerance):
        verdict = search.verdict(rate := (low + high) / 2)
        if verdict is None:
            break
        low, high = (rate, high) if verdict else (low, rate)
    above = below = None
    if 0 < low and high < math.inf:
        above = _first(search, True, [high * ASIDE**k for k in range(1, look_around + 1)])
        below = _first(search, False, [low / ASIDE**k for k in range(1, look_around + 1)])
    if search.is_tired and (low == 0 or high == math.inf or high > low * (1 + tolerance)):
        status = TIRED
    return Capacity(low, high, rule, tuple(search.trials), status, above, below)


def capacity_of(
    serve: Callable[[float], Trace], rule: CapacityRule, start_rate_per_s: float, **options
) -> Capacity:
    """`find_capacity` over runs: `serve(rate_per_s)` returns the record of one, simulated or
    live; a tuple of records counts as one (the lanes of a pipeline).

    options: those of `find_capacity` other than rule. Live runs are noisy: give them repeats=3.
    """

    def holds(rate_per_s: float) -> bool:
        served = serve(rate_per_s)
        return rule.holds(*(served if isinstance(served, list | tuple) else (served,)))

    return find_capacity(holds, start_rate_per_s, rule=rule.name, **options)


class _Search:
    """Counts the trials, and settles each rate by majority."""

    def __init__(self, holds: Callable[[float], bool], max_trials: int, repeats: int):
        self._holds, self._left, self._repeats = holds, max_trials, repeats
        self.trials: list[Trial] = []
        self.is_tired = False  # whether a verdict was not to be had any more

    def verdict(self, rate_per_s: float) -> bool | None:
        """Whether the rule holds at a rate; None if the trials have run out before it is clear."""
        votes = {True: 0, False: 0}
        while max(votes.values()) <= self._repeats // 2:
            if not self._left:
                self.is_tired = True
                return None
            self._left -= 1
            held = bool(self._holds(rate_per_s))
            self.trials.append(Trial(rate_per_s, held))
            votes[held] += 1
        return votes[True] > votes[False]


def _first(search: _Search, wanted: bool, rates: list[float]) -> float | None:
    """The first of `rates` whose verdict is the wanted one."""
    return next((rate for rate in rates if search.verdict(rate) is wanted), None)


def _bracket(search: _Search, start: float) -> tuple[float, float]:
    """A rate that held and one that failed, a factor of 2 apart; 0 or inf if there is none."""
    low, high, rate = 0.0, math.inf, start
    while start / WIDEST <= rate <= start * WIDEST:
        verdict = search.verdict(rate)
        if verdict is None:
            break
        if verdict:
            low = rate
        else:
            high = rate
        if low > 0 and high < math.inf:
            break
        rate = rate * 2 if verdict else rate / 2
    return low, high


def _check(start, max_trials, tolerance, repeats, look_around) -> None:
    if not 0 < start < math.inf:
        raise ValueError(
            f"start_rate_per_s must be finite and > 0, got {start}: give a rate near the capacity"
        )
    if max_trials < 1:
        raise ValueError(f"max_trials must be >= 1, got {max_trials}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be in (0, 1), got {tolerance}: 0.02 is 2%")
    if repeats < 1 or repeats % 2 == 0:
        raise ValueError(f"repeats must be odd and >= 1, got {repeats}: a majority must exist")
    if look_around < 0:
        raise ValueError(f"look_around must be >= 0, got {look_around}")
