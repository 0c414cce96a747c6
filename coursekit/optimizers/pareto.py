"""The Pareto front: the points that no other point beats in one thing without losing in another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def pareto_front(values: np.ndarray, maximize: Sequence[bool]) -> np.ndarray:
    """Which rows of `values`, (num_points, num_aims), are on the front, (num_points,) of bool.

    maximize: for each aim, whether more is better. Equal points are all on it; a row with a nan
    is not. Raises ValueError unless there is one entry of `maximize` a column.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[1] != len(maximize):
        raise ValueError(
            f"values must have a column for each of {len(maximize)} aims, got shape "
            f"{values.shape}: pass (num_points, num_aims)"
        )
    losses = np.where(np.asarray(maximize, bool), -values, values)  # (num_points, num_aims)
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(axis=2)  # [a, b]: a against b
    better = (losses[:, None, :] < losses[None, :, :]).any(axis=2)
    beaten = (no_worse & better).any(axis=0)
    return ~beaten & ~np.isnan(values).any(axis=1)
