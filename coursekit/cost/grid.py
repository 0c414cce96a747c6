"""A table of measured values, and the straight lines between them.

Kernel times are close to linear in each number alone: tokens times the tokens they attend to.
So multilinear interpolation on the numbers' own scale is nearly exact, however coarse the grid.
A table need not be a full grid: behind each value of the first axis the others may have points
of their own, as when a profiler has measured some sizes more densely than others.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np


class Grid:
    """Values at `points`; called with a point, it interpolates axis by axis.

    points: (rows, axes), >= 1 of each; values: (rows,); a point given twice counts with its
    mean. Past the last point of an axis its last line goes on; before the first one the first
    value stays, since a kernel has a least time. Raises ValueError for other shapes.
    """

    def __init__(self, points: np.ndarray, values: np.ndarray):
        points, values = np.asarray(points, dtype=float), np.asarray(values, dtype=float)
        if points.ndim != 2 or not points.size or values.shape != points.shape[:1]:
            raise ValueError(
                "points must be (rows, axes) and values (rows,), with at least 1 row, got "
                f"{points.shape} and {values.shape}"
            )
        self.num_axes = points.shape[1]
        self.smallest = float(values.min())
        at, place = np.unique(points[:, 0], return_inverse=True)
        self._at = at.tolist()
        behind = [place == number for number in range(len(at))]
        if self.num_axes == 1:
            self._line = Line(at, np.array([values[rows].mean() for rows in behind]))
        else:
            self._parts = [Grid(points[rows, 1:], values[rows]) for rows in behind]

    def __call__(self, *point: float) -> float:
        """The value at `point`, one number per axis."""
        if self.num_axes == 1:
            return self._line(point[0])
        low, share = self._cell(point[0])
        value = self._parts[low](*point[1:])
        if share:
            value += share * (self._parts[low + 1](*point[1:]) - value)
        return value

    def line(self, *point: float) -> Line:
        """What is left along the last axis, with all others at `point`."""
        if self.num_axes == 1:
            return self._line
        low, share = self._cell(point[0])
        line = self._parts[low].line(*point[1:])
        return line.towards(self._parts[low + 1].line(*point[1:]), share) if share else line

    def _cell(self, value: float) -> tuple[int, float]:
        """The cell that a value is in, and how far along: over 1 past the last point."""
        at = self._at
        if value <= at[0] or len(at) == 1:
            return 0, 0.0
        low = min(bisect_right(at, value) - 1, len(at) - 2)
        return low, (value - at[low]) / (at[low + 1] - at[low])


class Line:
    """Values along one axis, for one number or, bit for bit the same, for an array of them.

    at: increasing, (points,), >= 1; values: (points,).
    """

    def __init__(self, at: np.ndarray, values: np.ndarray):
        slopes = np.diff(values) / np.diff(at) if len(at) > 1 else np.zeros(1)
        self._arrays = at, values, slopes
        self._lists = at.tolist(), values.tolist(), slopes.tolist()

    def __call__(self, number: float) -> float:
        at, values, slopes = self._lists
        number = max(number, at[0])
        cell = min(bisect_right(at, number) - 1, len(slopes) - 1)
        return values[cell] + slopes[cell] * (number - at[cell])

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The values at many numbers at once."""
        at, values, slopes = self._arrays
        numbers = np.maximum(numbers, at[0])
        cells = np.minimum(np.searchsorted(at, numbers, "right") - 1, len(slopes) - 1)
        return values[cells] + slopes[cells] * (numbers - at[cells])

    def towards(self, other: Line, share: float) -> Line:
        """The line that is `share` of the way from this one to `other`; over 1 goes past it."""
        at = np.union1d(self._arrays[0], other._arrays[0])
        own = self.of(at)
        return Line(at, own + share * (other.of(at) - own))
