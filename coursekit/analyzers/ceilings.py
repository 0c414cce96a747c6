"""What a device can do at most, measured: its matrix rate and its memory bandwidth.

A roofline needs both. They are measured with the plainest large operations there are, so
nothing that a model does can go much above them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from coursekit.device import detect_device


@dataclass(frozen=True, slots=True)
class Ceilings:
    """flop_per_s: multiplying large matrices; bytes_per_s: reading a large matrix."""

    flop_per_s: float
    bytes_per_s: float
    label: str

    @property
    def ridge(self) -> float:
        """FLOP per byte at which both limits meet: below it memory is the bottleneck."""
        return self.flop_per_s / self.bytes_per_s


def measure_ceilings(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, seconds: float = 1.0
) -> Ceilings:
    """Measure both ceilings of `device` for `dtype`, each the best of runs over `seconds`.

    The bandwidth is that of a matrix-vector product over a matrix far larger than any cache:
    the reading pattern of a decode step. Raises ValueError if seconds <= 0.
    """
    if seconds <= 0:
        raise ValueError(f"seconds must be > 0, got {seconds}")
    device = torch.device(device)
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    flop_per_s = 2 * side**3 / _best_s(lambda: a @ b, device, seconds)
    rows = 2**30 // dtype.itemsize // side  # 1 GiB
    matrix = torch.ones(rows, side, device=device, dtype=dtype)
    vector = torch.ones(side, device=device, dtype=dtype)
    size = matrix.numel() * dtype.itemsize
    bytes_per_s = size / _best_s(lambda: matrix @ vector, device, seconds)
    return Ceilings(flop_per_s, bytes_per_s, f"live ({detect_device(device.type).label()})")


def _best_s(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Shortest time of one run, of as many (at least 3) as fit into `seconds`."""
    best, spent, runs = float("inf"), 0.0, 0
    run()  # the first pays for memory and code paths
    while spent < seconds or runs < 3:
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - began
        best, spent, runs = min(best, took), spent + took, runs + 1
    return best
