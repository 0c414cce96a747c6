"""An engine as something to be measured: turn its budget, run the workload, read the record.

The engine may be simulated with noise, ours, or vLLM; all it needs is `run`, `token_budget`,
`max_token_budget` and `label`.
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.cost.base import CostModel
from coursekit.optimizers.chunk_size import sizes_within
from coursekit.optimizers.objective import BLOCKING, row_of
from coursekit.optimizers.simulated import capacity_row
from coursekit.trace import Trace
from coursekit.workload import Workload

NUM_WARM_UP = 2  # requests served before anything counts: memory and code paths are paid for
INTERLEAVED = "InterleavedPrefillDecodeScheduler"  # its one size is of chunks
CAPACITY_TRIALS, CAPACITY_TOLERANCE = 8, 0.05  # a live run takes its time


class LiveSource:
    """Holds an engine, or makes one and closes it at the end of the `with` block."""

    def __init__(self, source):
        self._owns = not hasattr(source, "run")
        self.engine = source() if self._owns else source
        self.label = self.engine.label
        interleaved = type(getattr(self.engine, "scheduler", None)).__name__ == INTERLEAVED
        self.knob = "chunk_size" if interleaved else "token_budget"
        self._budget = self.engine.token_budget
        self._measured: list[tuple[Trace | None, dict[str, float]]] = []

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *problem) -> None:
        if self._owns:
            self.engine.close()
        else:
            self.engine.token_budget = self._budget

    def sizes(self, sizes: Sequence[int] | None) -> tuple[int, ...]:
        """The sizes to search; see `chunk_size.sizes_within`."""
        return sizes_within(self.engine.max_token_budget, sizes, "engine's max_token_budget")

    def warm_up(self, workload: Workload) -> None:
        """Serve the first requests under the largest budget, and forget them."""
        few = slice(NUM_WARM_UP)
        self._run(
            Workload(
                workload.arrival_s[few], workload.num_prompt_tokens[few],
                workload.num_output_tokens[few],
            ),
            self.engine.max_token_budget,
        )  # fmt: skip

    def measure(
        self, task, size: int, cost: CostModel | None, expected_per_s: float | None
    ) -> tuple[dict[str, float], list[Trace]]:
        """The row of one measurement, and the records of its runs.

        cost: for blocking time, nan without; expected_per_s: where to begin a search for capacity.
        """
        if task.objective != "capacity":
            trace = self._run(task.workload, size)
            row = _row(task, trace, cost)
            self._measured.append((trace, row))
            return row, [trace]
        traces: list[Trace] = []

        def row_at(load: Workload) -> dict[str, float]:
            traces.append(self._run(load, size))
            return _row(task, traces[-1], cost)

        row = capacity_row(
            row_at, task.workload, task.slo, expected_per_s or None,
            max_trials=CAPACITY_TRIALS, tolerance=CAPACITY_TOLERANCE,
        )  # fmt: skip
        self._measured.append((None, row))
        return row, traces

    def rows(self, task, cost: CostModel) -> list[dict[str, float]]:
        """All rows so far, those of single runs read anew with this cost."""
        return [row if trace is None else _row(task, trace, cost) for trace, row in self._measured]

    def _run(self, workload: Workload, size: int) -> Trace:
        self.engine.token_budget = size
        return self.engine.run(workload.source())


def _row(task, trace: Trace, cost: CostModel | None) -> dict[str, float]:
    if BLOCKING not in task.slo.limits:
        return row_of(trace, task.slo, None, task.goodput_slo)
    if cost is None:  # nothing says yet what decodes alone take
        return row_of(trace, task.slo, None, task.goodput_slo) | {BLOCKING: float("nan")}
    return row_of(trace, task.slo, cost, task.goodput_slo)
