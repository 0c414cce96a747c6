"""What is thought of each size after some measurements: how good, how surely within the SLO.

Curves that may be true are drawn from the posteriors, of the objective and of each limit, and
everything is counted over them: which size is best, which keep the SLO, how far off a choice is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coursekit.optimizers.objective import BLOCKING
from coursekit.optimizers.posterior import ErrorSd, Posterior, pooled_noise_sd, posterior

TOLERANCE = 0.03  # a size this close to the best is as good
NUM_DRAWS = 4000
# How far off a calibrated simulation may be, relative. Percentiles are less sure than rates: where
# they fall between the long iterations and the short ones, a little shifts them a lot; and a
# maximum hangs on one iteration.
RATE_ERROR = ErrorSd(bias=0.15, drift=0.05, own=0.02)
PERCENTILE_ERROR = ErrorSd(bias=0.15, drift=0.1, own=0.1)
MAXIMUM_ERROR = ErrorSd(bias=0.3, drift=0.1, own=0.2)
LEAST_NOISE = 0.01  # relative: no run of a real machine repeats better
FLOOR = 1e-3  # share of a limit below which it makes no difference


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """Draws of what may be true, and what follows.

    objective: of the scaled objective, by size; scale: what it was divided by; value, within:
    (num_draws, num_sizes), the objective, and whether all limits are kept; over: the logarithm
    of the worst of value / limit. limits: column -> posterior of the logarithm of that ratio.
    """

    objective: Posterior
    scale: float
    value: np.ndarray
    within: np.ndarray
    over: np.ndarray
    limits: dict[str, tuple[float, Posterior]]

    @property
    def p_feasible(self) -> np.ndarray:
        """Probability that each size keeps the SLO, (num_sizes,)."""
        return self.within.mean(axis=0)

    @property
    def p_infeasible(self) -> float:
        """Probability that no size does."""
        return float((~self.within.any(axis=1)).mean())

    @property
    def leader(self) -> int:
        """The size that looks best: of those that rather keep the SLO, or else the nearest."""
        return self._best(np.ones(len(self.p_feasible), bool))

    @property
    def confidence(self) -> float:
        """Probability that the leader is as good as the best, or that no size is feasible."""
        return self.confidence_of(self.leader)

    def confidence_of(self, place: int) -> float:
        """The same for any size."""
        return float(self._good(place).mean())

    def choose(self, counts: np.ndarray) -> int | None:
        """The answer: a size that was measured, if any such keeps the SLO; None if none does."""
        likely = self.p_feasible >= 0.5
        if not likely.any():
            return None
        measured = counts > 0
        return self._best(measured if (measured & likely).any() else np.ones(len(likely), bool))

    def next_place(self, counts: np.ndarray, num_left: int, min_runs: int) -> int:
        """Where to measure next: the leader until it has its runs, then its strongest rival.

        The last runs are kept for a leader that has not had its own.
        """
        leader = self.leader
        rival = self._rival(leader)
        wanting = counts[leader] < min_runs
        if wanting and (counts[leader] <= counts[rival] or num_left <= min_runs - counts[leader]):
            return leader
        return rival

    def interval(self, place: int) -> tuple[float, float]:
        """95% of what the objective may be."""
        low, high = np.quantile(self.value[:, place], (0.025, 0.975)) * self.scale
        return float(low), float(high)

    def row(self, place: int) -> dict[str, float]:
        """Estimates for one size: value, its sd and interval, the limits' values, verdict."""
        low, high = self.interval(place)
        estimates = {
            column: float(limit * np.exp(curve.mean[place]))
            for column, (limit, curve) in self.limits.items()
        }
        p_feasible = float(self.p_feasible[place])
        return {
            "value": float(self.objective.mean[place] * self.scale), "feasible": p_feasible >= 0.5,
            "p_feasible": p_feasible, "sd": float(self.objective.sd[place] * self.scale),
            "ci_low": low, "ci_high": high, **estimates,
        }  # fmt: skip

    def _best(self, allowed: np.ndarray) -> int:
        likely = allowed & (self.p_feasible >= 0.5)
        if likely.any():
            return int(np.argmax(np.where(likely, self.objective.mean, -np.inf)))
        return int(np.argmin(np.where(allowed, self.over.mean(axis=0), np.inf)))

    def _good(self, place: int) -> np.ndarray:
        """In which draws a choice is right, (num_draws,)."""
        if self.p_feasible[place] < 0.5:
            return ~self.within.any(axis=1)
        best = np.where(self.within, self.value, -np.inf).max(axis=1)
        return self.within[:, place] & (self.value[:, place] >= (1 - TOLERANCE) * best)

    def _rival(self, leader: int) -> int:
        """The size for which most would be lost by the leader, over the draws where it is wrong."""
        wrong = ~self._good(leader) & self.within.any(axis=1)
        if not wrong.any():
            return leader
        within, value = self.within[wrong], self.value[wrong]
        best = np.where(within, value, -np.inf).argmax(axis=1)
        kept = np.where(within[:, leader], value[:, leader], 0.0)
        lost = value[np.arange(len(best)), best] - kept
        return int(np.bincount(best, lost, minlength=value.shape[1]).argmax())


def believe(task, forecast: np.ndarray, at: np.ndarray, seen: np.ndarray) -> Belief:
    """The belief after measurements of the sizes at places `at`, (n,).

    forecast: (num_sizes, num_rehearsals, num_columns) of `task.columns`; seen: (n, num_columns).
    """
    sizes, generator = np.array(task.sizes, float), np.random.default_rng(0)
    scale = max(float(forecast[:, :, 0].mean(axis=1).max()), float(seen[:, 0].max())) or 1.0
    unit = forecast[:, :, 0].mean(axis=1) / scale + 0.05
    objective = _curve(
        sizes, forecast[:, :, 0] / scale, at, seen[:, 0] / scale, RATE_ERROR, unit
    )
    value = objective.draw(NUM_DRAWS, generator)
    within, over = value > FLOOR, np.zeros_like(value)
    limits = {}
    for place, column in enumerate(task.columns[1:], 1):
        limit = task.slo.limits[column]
        ratios = (np.log(np.maximum(part / limit, FLOOR)) for part in (
            forecast[:, :, place], seen[:, place]
        ))  # fmt: skip
        error = MAXIMUM_ERROR if column == BLOCKING else PERCENTILE_ERROR
        curve = _curve(sizes, next(ratios), at, next(ratios), error, np.ones(len(sizes)))
        limits[column] = limit, curve
        drawn = curve.draw(NUM_DRAWS, generator)
        within &= drawn <= 0
        over = drawn if place == 1 else np.maximum(over, drawn)
    return Belief(objective, scale, value, within, over, limits)


def _curve(sizes, forecast: np.ndarray, at, seen: np.ndarray, error: ErrorSd, unit) -> Posterior:
    """Posterior of one column; its errors and its least noise are shares of `unit`."""
    predicted = forecast.mean(axis=1)  # (num_sizes,)
    expected = np.sqrt(forecast.var(axis=1, ddof=1).mean() + (LEAST_NOISE * unit) ** 2)
    noise_sd = pooled_noise_sd(at, seen, expected)
    return posterior(sizes, predicted, at, seen, noise_sd, error, unit)
