"""The chunk size or token budget that gives the most under an SLO: simulated, or on a live engine.

A simulated source tries every size; a live one is asked sparingly (see `live_search`). Either
way the answer holds the table, the Pareto front and the limit that binds, or, where no size
keeps the SLO, the nearest SLO that one of them would keep. `one_prompt` has the simplest call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial

from coursekit.cost.base import CostModel
from coursekit.live.base import LiveEngine
from coursekit.metrics import Slo
from coursekit.optimizers.answer import Answer, decide
from coursekit.optimizers.objective import OBJECTIVES, RunSlo, keeps
from coursekit.optimizers.simulated import CAPPED, Simulation, evaluate, rate_of
from coursekit.optimizers.sweeps import sweep
from coursekit.workload import Workload
from coursekit.workload.checks import count

CHUNK_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)  # the module's
TOKEN_BUDGET = 2048  # vLLM's default, under which its cap on one prompt is turned


class ChunkSizeOptimizer:
    """Finds the size that serves `workload` best under an SLO.

    source: a `CostModel`; a live engine, whose budget is turned between runs; or a function
    that makes one, which is then closed again. chunk_sizes: integers >= 1, rising; the module's
    if None, as far as the engine's budget goes. What they are sizes of: `knob`, "token_budget"
    (tokens of all requests in one iteration) or "chunk_size" (prompt tokens of one request);
    None is the policy's own, the budget wherever there is one. Of vLLM's policy "chunk_size"
    turns long_prefill_token_threshold, under the fixed `token_budget`.
    scheduler, max_num_seqs, num_blocks, block_size: of the simulation; an engine has its own.
    Raises ValueError for an empty workload, sizes out of order or range, and unknown names.
    """

    def __init__(
        self,
        source: CostModel | LiveEngine | Callable[[], LiveEngine],
        workload: Workload,
        chunk_sizes: Sequence[int] | None = None,
        *,
        scheduler: str = "token-budget",
        knob: str | None = None,
        token_budget: int = TOKEN_BUDGET,
        max_num_seqs: int = 128,
        num_blocks: int | None = None,
        block_size: int = 16,
    ):
        if not len(workload):
            raise ValueError("a workload needs at least 1 request, got 0: add some")
        self.source, self.workload = source, workload
        self.chunk_sizes = None if chunk_sizes is None else check_sizes(chunk_sizes)
        self.simulation = None
        if not hasattr(source, "iteration_s"):
            self._check_live(scheduler, knob)
            return
        knob = knob or ("chunk_size" if scheduler == "interleaved" else "token_budget")
        self.simulation = Simulation(
            source, scheduler, knob, token_budget, max_num_seqs, num_blocks, block_size
        )
        self.chunk_sizes = self.chunk_sizes or CHUNK_SIZES
        if knob == "chunk_size" and scheduler in CAPPED:
            self.chunk_sizes = sizes_within(token_budget, chunk_sizes, "token_budget")

    def _check_live(self, scheduler: str, knob: str | None) -> None:
        if not (hasattr(self.source, "run") or callable(self.source)):
            raise ValueError(
                "source must be a cost model, a live engine or a function that makes one, got "
                f"{type(self.source).__name__}: pass RooflineCost(...), say, or TorchEngine(...)"
            )
        if scheduler != "token-budget" or knob is not None:
            raise ValueError(
                f"a live engine has its own scheduler and knob, got {scheduler!r} and {knob!r}: "
                "build the engine with the scheduler that you want"
            )

    def optimize(
        self,
        slo: RunSlo,
        objective: str = "throughput",
        goodput_slo: Slo | None = None,
        executor: Executor | None = None,
        progress: bool = False,
        **live,
    ) -> Answer:
        """The size of the largest `objective` among those that keep `slo`.

        objective: "throughput" (prompt and output tokens served per second), "goodput"
        (requests per second that keep `goodput_slo`, or else the limits of `slo` on ITL and
        TTFT, each on its own), or "capacity" (the highest rate of this workload's requests at
        which `slo` holds). executor, progress: of the simulated runs, as for `sweep`.
        live: `num_repeats`, `max_runs`, ... of `live_search.search`.
        Raises ValueError for an unknown objective, for what it lacks, and if nothing could run.
        """
        goodput_slo = self._check(slo, objective, goodput_slo)
        if self.simulation is None:
            from coursekit.optimizers.live_search import search

            return search(
                self.source, self.workload, self.chunk_sizes, slo, objective, goodput_slo, **live
            )
        if live:
            raise ValueError(f"{', '.join(live)} are for live engines, got a cost model: drop them")
        run = partial(evaluate, self.simulation, self.workload, slo, objective, goodput_slo)
        outcomes = sweep(run, self.chunk_sizes, executor, progress)
        table = table_of(outcomes, self.simulation.knob, objective, slo)
        return decide(table, self.simulation.knob, objective, slo, self.simulation.cost.label)

    def _check(self, slo: RunSlo, objective: str, goodput_slo: Slo | None) -> Slo | None:
        """What a request must keep to count, for goodput."""
        if not isinstance(slo, RunSlo):
            raise ValueError(
                f"slo must be a RunSlo, got {slo!r}: say RunSlo(itl_s=0.1) for an ITL P99 of at "
                "most 0.1 s"
            )
        if objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {objective!r}; known: {', '.join(OBJECTIVES)}")
        if objective == "capacity":
            rate_of(self.workload)
        if objective != "goodput":
            return goodput_slo
        goodput_slo = goodput_slo or slo.per_request()
        if goodput_slo is None:
            raise ValueError(
                "goodput needs a limit on ITL or TTFT that a single request can keep, got "
                "max_blocking_time_s alone: pass goodput_slo=Slo(ttft_s=..., itl_s=...)"
            )
        return goodput_slo


def check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    """`sizes` as ints. Raises ValueError unless they are integers >= 1 in rising order."""
    checked = tuple(count("chunk_sizes", size) for size in sizes)
    if not checked or list(checked) != sorted(set(checked)):
        raise ValueError(
            f"chunk_sizes must be 1 or more and rise, got {checked}: sort them, drop repeats"
        )
    return checked


def sizes_within(most: int, sizes: Sequence[int] | None, what: str) -> tuple[int, ...]:
    """The sizes to try: those given, or the usual ones up to `most`.

    Raises ValueError for a given one above `most`.
    """
    if sizes is None:
        return tuple(size for size in CHUNK_SIZES if size <= most) or (most,)
    checked = check_sizes(sizes)
    if checked[-1] > most:
        raise ValueError(
            f"chunk_sizes must be in 1..{most}, the {what}, got {checked[-1]}: leave it out, or "
            f"raise the {what}"
        )
    return checked


def table_of(outcomes, knob: str, objective: str, slo: RunSlo):
    """A row a size, indexed by `knob`: value, feasible, the run's columns, error."""
    import pandas as pd

    rows = []
    for outcome in outcomes:
        row = outcome.value or {}
        value = row.get(OBJECTIVES[objective], float("nan"))
        kept = bool(row) and keeps(row, slo) and not (objective == "capacity" and value <= 0)
        rows.append({
            knob: outcome.point, "value": value, "feasible": kept, **row,
            "error": outcome.error or "",
        })  # fmt: skip
    return pd.DataFrame(rows).set_index(knob)
