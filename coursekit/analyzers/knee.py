"""The knee: how many tokens an iteration takes along before they cost time.

An iteration reads all weights once, whatever its number of tokens; computing takes longer with
each. While reading takes longer, a token more is nearly free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coursekit.cost.calibrated import nonnegative_least_squares

if TYPE_CHECKING:
    import pandas as pd

MIN_SIZES = 8  # twice the terms
NEARLY_FREE = 0.25  # of what a token costs later, or of the floor
FREE = 0.01  # of the floor: what the largest iteration's tokens may cost and still be nothing
NUM_TRIED, NUM_ROUNDS = 24, 3


@dataclass(frozen=True, eq=False)
class Knee:
    """The fit of an iteration's seconds over its tokens n, one chunk behind nothing:

        floor_s + below_s * n + (above_s - below_s) * max(0, n - corner) + square_s * n^2

    with no term negative, by least relative squares, the corner by trial; the square is attention.
    `tokens`, the knee, is the corner if tokens below it cost at most NEARLY_FREE of those above:
    up to there computing hides behind reading the weights. It is nan if there is none in
    the range measured, and `reason` says why: "free", no token costs anything but attention;
    "flat", those of the largest iteration together still take less than the floor; "dear", they
    cost from the first one on. doubled_at: tokens whose computing takes as long as the floor, nan
    beyond the range. ridge_tokens: where the device's roofline bends for the linear layers, from
    its ceilings alone; nan for a device without known ceilings. table: num_tokens, seconds, spread,
    fitted_s.
    """

    label: str
    table: pd.DataFrame
    floor_s: float
    below_s: float
    above_s: float
    square_s: float
    corner: float
    ridge_tokens: float

    @property
    def largest(self) -> int:
        """Most tokens of an iteration that was asked for."""
        return int(self.table["num_tokens"].iloc[-1])

    @property
    def reason(self) -> str:
        """Why there is no knee in the range, "" if there is one."""
        computing_s = self._tokens_s(self.largest)
        if computing_s < NEARLY_FREE * self.floor_s:
            return "free" if computing_s < FREE * self.floor_s else "flat"
        if self.below_s <= NEARLY_FREE * self.above_s and self.corner < self.largest:
            return ""
        return "flat" if computing_s < self.floor_s else "dear"

    @property
    def tokens(self) -> float:
        """The knee, in tokens of an iteration; nan if there is none in the range."""
        return self.corner if not self.reason else np.nan

    @property
    def doubled_at(self) -> float:
        """Tokens whose computing, attention aside, takes as long as the floor."""
        if self._tokens_s(self.largest) < self.floor_s:
            return np.nan
        at_corner = self._tokens_s(self.corner)
        if at_corner >= self.floor_s:
            return self.floor_s / self.below_s
        return self.corner + (self.floor_s - at_corner) / self.above_s

    def _tokens_s(self, num_tokens: float) -> float:
        over = max(0.0, num_tokens - self.corner)
        return self.below_s * num_tokens + (self.above_s - self.below_s) * over


def find_knee(
    num_tokens: Sequence[int],
    seconds: Sequence[float],
    spread: Sequence[float] | None = None,
    label: str = "",
    ridge_tokens: float = np.nan,
) -> Knee:
    """Fit a `Knee` to iterations of one chunk behind nothing.

    Raises ValueError for fewer than MIN_SIZES sizes, sizes that do not rise from >= 1, or times
    that are not > 0.
    """
    import pandas as pd

    sizes, seconds = np.asarray(num_tokens, float), np.asarray(seconds, float)
    _check(sizes, seconds)
    coefficients, corner = _fit(sizes, seconds)
    floor_s, below_s, over_s, square_s = map(float, coefficients)
    table = pd.DataFrame({
        "num_tokens": sizes.astype("i8"), "seconds": seconds,
        "spread": 0.0 if spread is None else spread,
        "fitted_s": _columns(sizes, corner) @ coefficients,
    })  # fmt: skip
    table.attrs["label"] = label
    above_s = below_s + over_s
    return Knee(label, table, floor_s, below_s, above_s, square_s, corner, ridge_tokens)


def _columns(sizes: np.ndarray, corner: float) -> np.ndarray:
    over = np.maximum(0, sizes - corner)
    return np.column_stack([np.ones(len(sizes)), sizes, over, sizes**2])


def _fit(sizes: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients and corner; without a gain from any corner it lies at the largest size."""
    corner = float(sizes[-1])
    best, error = _solve(sizes, seconds, corner)
    low, high = sizes[1], sizes[-2]
    for _ in range(NUM_ROUNDS):
        grid = np.geomspace(low, high, NUM_TRIED)
        tries = [_solve(sizes, seconds, each) for each in grid]
        at = min(range(NUM_TRIED), key=lambda index: tries[index][1])
        if tries[at][1] < error * (1 - 1e-9):
            (best, error), corner = tries[at], float(grid[at])
        low, high = grid[max(at - 1, 0)], grid[min(at + 1, NUM_TRIED - 1)]
    return best, corner


def _solve(sizes, seconds, corner) -> tuple[np.ndarray, float]:
    columns = _columns(sizes, corner) / seconds[:, None]
    return nonnegative_least_squares(columns, np.ones(len(seconds)))


def _check(sizes: np.ndarray, seconds: np.ndarray) -> None:
    if len(sizes) < MIN_SIZES:
        raise ValueError(f"a knee needs at least {MIN_SIZES} sizes, got {len(sizes)}: ask for more")
    if sizes[0] < 1 or (np.diff(sizes) <= 0).any():
        raise ValueError(f"sizes must be >= 1 and rise, got {sizes.tolist()}: sort them")
    if not ((seconds > 0) & np.isfinite(seconds)).all():
        raise ValueError(f"seconds must be finite and > 0, got {seconds.tolist()}")
