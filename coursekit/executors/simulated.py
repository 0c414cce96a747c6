"""An executor on a computed clock: a cost model says how long a batch would take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coursekit.batch import Batch

if TYPE_CHECKING:
    from coursekit.cost.base import CostModel


class SimulatedExecutor:
    """Runs nothing: asks `cost` instead. Its label is the cost model's.

    An executor with a `cost` can be asked ahead of time; see `coursekit.jump`.
    """

    def __init__(self, cost: CostModel):
        self.cost = cost
        self.label = cost.label

    def execute(self, batch: Batch) -> float:
        """Seconds that the batch takes."""
        return self.cost.iteration_s(batch.num_decodes, batch.decode_context, batch.chunks)
