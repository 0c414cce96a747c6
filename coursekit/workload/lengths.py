"""How long requests are, in tokens: all alike, drawn, or the module's mix.

Columns are int64 (n,) and serve prompts and outputs alike. The same seed draws the same lengths.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from coursekit.workload.checks import count

# The course module's production example (section 4.1): (prompt, output) tokens of a long
# document, a short question and a medium context.
MODULE_KINDS = ((8000, 100), (3, 50), (200, 80))


def fixed(n: int, tokens: int) -> np.ndarray:
    """The same length for all. Raises ValueError for n or tokens < 1."""
    return np.full(count("n", n), count("tokens", tokens), np.int64)


def lognormal(
    n: int, median: float, p90: float, low: int, high: int, seed: int = 0
) -> np.ndarray:
    """Log-normal lengths, rounded, and clipped to low..high tokens, both included.

    Before clipping, half are no longer than `median` tokens and nine in ten no longer than
    `p90`. Raises ValueError unless n >= 1, 0 < median <= p90 and 1 <= low <= high.
    """
    if not 0 < median < math.inf:
        raise ValueError(f"median must be finite and > 0, got {median}: pass tokens")
    if not median <= p90 < math.inf:
        raise ValueError(f"p90 must be finite and >= median {median}, got {p90}: raise it")
    if count("high", high) < count("low", low):
        raise ValueError(f"high must be >= low {low}, got {high}: swap them")
    sigma = math.log(p90 / median) / NormalDist().inv_cdf(0.9)
    drawn = np.random.default_rng(seed).lognormal(math.log(median), sigma, count("n", n))
    return np.clip(np.rint(drawn), low, high).astype(np.int64)


def module_mix(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output lengths of the module's production example, two columns of (n,).

    A third each of `MODULE_KINDS`, in an order drawn by `seed`. Raises ValueError for n < 1.
    """
    kinds = np.arange(count("n", n)) % len(MODULE_KINDS)
    lengths = np.array(MODULE_KINDS)[np.random.default_rng(seed).permutation(kinds)]  # (n, 2)
    return lengths[:, 0].copy(), lengths[:, 1].copy()
