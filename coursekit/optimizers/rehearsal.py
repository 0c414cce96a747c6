"""Runs rehearsed: a cost fitted to a live engine's records, its noise included, simulates others.

The fit says what an iteration takes on average; what single ones took beside that is drawn anew
in each rehearsal. Without it a simulated P99 would be that of an engine that never falters.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coursekit.cost.base import Chunks
from coursekit.cost.calibrated import CalibratedCost, MeasuredIteration
from coursekit.cost.from_trace import measured_iterations
from coursekit.optimizers.simulated import Simulation
from coursekit.schedulers import NAMES
from coursekit.trace import Trace

MOST_MIXED, MOST_ALONE = 240, 120  # iterations that a fit looks at, with chunks and without


class NoisyCost:
    """`cost`, each iteration longer or shorter by a ratio drawn from those that were measured.

    with_chunks, alone: measured / fitted, (n,) each, of iterations with chunks and of decodes.
    """

    def __init__(self, cost: CalibratedCost, with_chunks: np.ndarray, alone: np.ndarray, seed: int):
        self.cost, self.label = cost, cost.label
        self._ratios = {True: with_chunks, False: alone}
        self._generator = np.random.default_rng(seed)
        self._drawn = {True: iter(()), False: iter(())}

    def iteration_s(self, num_decodes: int, decode_context: int, chunks: Chunks) -> float:
        """Seconds of one iteration; see `coursekit.cost.base`."""
        kind = bool(chunks)
        ratio = next(self._drawn[kind], None)
        if ratio is None:  # drawn many at once: one at a time takes longer than the fit itself
            self._drawn[kind] = iter(self._generator.choice(self._ratios[kind], 512).tolist())
            ratio = next(self._drawn[kind])
        return self.cost.iteration_s(num_decodes, decode_context, chunks) * ratio

    def decode_run_s(
        self, num_decodes: int, decode_context: int, num_iterations: int
    ) -> np.ndarray:
        """Seconds of consecutive iterations of decodes alone; see `coursekit.cost.base`."""
        ratios = self._generator.choice(self._ratios[False], num_iterations)
        return self.cost.decode_run_s(num_decodes, decode_context, num_iterations) * ratios


@dataclass(frozen=True, slots=True)
class Calibration:
    """A cost fitted to records, and measured / fitted of iterations with chunks and without."""

    cost: CalibratedCost
    with_chunks: np.ndarray
    alone: np.ndarray

    def noisy(self, seed: int) -> NoisyCost:
        """The cost with noise of this seed."""
        return NoisyCost(self.cost, self.with_chunks, self.alone, seed)


def calibrate(traces: Sequence[Trace], label: str) -> Calibration:
    """Fit a cost to the iterations of `traces`, in which prompts ran in various chunk sizes.

    label: of the device. Raises ValueError for records that do not tell a cost's terms apart.
    """
    rows = [row for trace in traces for row in measured_iterations(trace) if row.seconds > 0]
    mixed, alone = ([row for row in rows if bool(row.chunks) == kind] for kind in (True, False))
    few = [*_spread(mixed, MOST_MIXED), *_spread(alone, MOST_ALONE)]
    cost = CalibratedCost.fit(few, device=label)
    # of all iterations: among few, the longest, always one of them, would come too often
    return Calibration(cost, _ratios(cost, mixed), _ratios(cost, alone))


def simulation_like(trace: Trace, knob: str, cost) -> Simulation:
    """A simulation with the scheduler and the limits of the engine that left `trace`."""
    settings = trace.info["scheduler"]
    name = next((name for name, kind in NAMES.items() if kind == settings["name"]), "token-budget")
    return Simulation(
        cost, name, knob, max_num_seqs=settings["max_num_seqs"],
        num_blocks=settings.get("num_blocks"), block_size=settings.get("block_size", 16),
    )  # fmt: skip


def quietly(function, *args):
    """Call it without the warnings of a cost asked beyond what it was calibrated with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def _spread(rows: list[MeasuredIteration], most: int) -> list[MeasuredIteration]:
    """At most `most` of the rows, evenly from the shortest to the longest iteration."""
    if len(rows) <= most:
        return rows
    rows = sorted(rows, key=lambda row: row.seconds)
    return [rows[place] for place in np.linspace(0, len(rows) - 1, most).astype(int)]


def _ratios(cost: CalibratedCost, rows: list[MeasuredIteration]) -> np.ndarray:
    ratios = [row.seconds / quietly(cost.iteration_s, *row[:3]) for row in rows]
    return np.array(ratios or [1.0])
