"""Checks of what a caller passes, shared by the modules of this package.

Each returns what it checked, ready for use. They don't read files: `readers` names lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index

import numpy as np


def positive(name: str, value: float, remedy: str = "pass a positive number") -> float:
    """`value` as a float. Raises ValueError unless it is finite and > 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value}: {remedy}")
    return float(value)


def count(name: str, value: int) -> int:
    """`value` as an int. Raises ValueError unless it is an integer >= 1."""
    try:
        number = index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}: round it") from None
    if number < 1:
        raise ValueError(f"{name} must be >= 1, got {value}: ask for at least one")
    return number


def integers(name: str, values: Sequence[int]) -> np.ndarray:
    """`values` as int64, shape (n,). Raises ValueError naming the first row that is no integer."""
    array = column(name, values)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} must hold integers, got {array.dtype}, first {array[0]!r}")
    if array.dtype.kind == "f":
        whole = (array == np.floor(array)) & (np.abs(array) < 2**53)  # nan and inf: False
        first_bad(name, array, whole, "an integer", "round it, or drop the row")
    return array.astype(np.int64)


def token_counts(name: str, values: Sequence[int]) -> np.ndarray:
    """`values` as int64, shape (n,). Raises ValueError naming the first row below 1."""
    array = integers(name, values)
    first_bad(name, array, array >= 1, ">= 1", "drop the row, or give it one token")
    return array


def column(name: str, values: Sequence) -> np.ndarray:
    """`values` as an array. Raises ValueError unless it has one dimension."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"{name} must have one dimension, got shape {array.shape}: pass a value a request"
        )
    return array


def first_bad(name: str, values: np.ndarray, good: np.ndarray, must: str, remedy: str) -> None:
    """Raise ValueError naming the first row (0-based) of `values` where `good` is False."""
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(f"{name} must be {must}, got {values[row]} in row {row}: {remedy}")
