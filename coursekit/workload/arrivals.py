"""When requests arrive: times drawn from a process, in seconds from the start of the run.

Each function returns float64 (n,), in order. The same seed draws the same times. Recorded
times need no function: pass them to `Workload`. Lengths are `lengths`' matter.
"""

from __future__ import annotations

import numpy as np

from coursekit.workload.checks import count, positive


def poisson(rate: float, n: int, seed: int = 0) -> np.ndarray:
    """A Poisson process of `rate` requests per second: independent exponential gaps.

    The first request comes after a gap. Raises ValueError for a rate that is not finite and
    > 0, or n < 1.
    """
    mean_gap_s = 1 / positive("rate", rate)
    return np.cumsum(np.random.default_rng(seed).exponential(mean_gap_s, count("n", n)))


def gamma(rate: float, cv: float, n: int, seed: int = 0) -> np.ndarray:
    """Independent gamma gaps of mean 1/rate seconds; cv: their standard deviation over it.

    cv = 1 is Poisson; above it requests come in bursts, below it more evenly (the `burstiness`
    of vLLM's load test is 1/cv^2). The first request comes after a gap. Raises ValueError for
    a rate or cv that is not finite and > 0, or n < 1.
    """
    mean_gap_s = 1 / positive("rate", rate)
    variance = positive("cv", cv, "for even spacing call constant(rate, n)") ** 2
    draw = np.random.default_rng(seed).gamma
    return np.cumsum(draw(1 / variance, variance * mean_gap_s, count("n", n)))


def constant(rate: float, n: int) -> np.ndarray:
    """One request every 1/rate seconds, the first after one gap, as the drawn ones.

    Raises ValueError for a rate that is not finite and > 0, or n < 1.
    """
    return np.arange(1, count("n", n) + 1) / positive("rate", rate)
