"""One size of one workload, simulated: what an optimizer asks again and again.

`Simulation` holds everything but the size, in plain data, so that it travels to other processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coursekit.cost.base import CostModel
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.metrics import Slo
from coursekit.optimizers.objective import BLOCKING, RunSlo, keeps, row_of
from coursekit.schedulers.base import NO_LIMIT
from coursekit.simulate import make_scheduler
from coursekit.trace import Trace
from coursekit.workload import Workload

# Policies that have a cap on one request's tokens in an iteration beside their budget.
CAPPED = ("token-budget", "priority-token-budget")


@dataclass(frozen=True, slots=True)
class Simulation:
    """A device, a policy and its limits; `knob` is what a size means.

    knob: "token_budget", or "chunk_size": the interleaved policy's own, or the cap of vLLM's
    (long_prefill_token_threshold) under a fixed `token_budget`. num_blocks: KV blocks, plenty
    if None. Raises ValueError for an unknown knob, or one that the policy has not got.
    """

    cost: CostModel
    scheduler: str = "token-budget"
    knob: str = "token_budget"
    token_budget: int | None = None
    max_num_seqs: int = 128
    num_blocks: int | None = None
    block_size: int = 16

    def __post_init__(self):
        has = _knobs(self.scheduler)
        if self.knob not in has:
            raise ValueError(
                f"knob must be one of {', '.join(has)} for the {self.scheduler} scheduler, got "
                f"{self.knob!r}"
            )
        self.policy(64)  # an unknown scheduler and limits out of range are refused at once

    def policy(self, size: int):
        """A fresh scheduler of this size."""
        kv = BlockCounter(self.num_blocks or NO_LIMIT, self.block_size)
        limits = {"max_num_seqs": self.max_num_seqs, "kv": kv}
        if self.knob == "chunk_size" and self.scheduler in CAPPED:
            limits |= {"token_budget": self.token_budget, "long_prefill_token_threshold": size}
        else:
            limits["token_budget"] = size
        return make_scheduler(self.scheduler, **limits)

    def run(self, workload: Workload, size: int) -> Trace:
        """The record of `workload` at this size."""
        return Engine(self.policy(size), SimulatedExecutor(self.cost)).run(workload.source())


def _knobs(scheduler: str) -> tuple[str, ...]:
    if scheduler == "interleaved":
        return ("chunk_size",)
    return ("token_budget", "chunk_size") if scheduler in CAPPED else ("token_budget",)


def evaluate(
    simulation: Simulation,
    workload: Workload,
    slo: RunSlo,
    objective: str,
    goodput_slo: Slo | None,
    size: int,
) -> dict[str, float]:
    """The row of one size; for capacity, of the run at the highest rate that keeps the SLO."""
    # blocking time costs a look at every mixed iteration, so only who asks for it pays
    cost = simulation.cost if BLOCKING in slo.limits else None
    if objective != "capacity":
        return row_of(simulation.run(workload, size), slo, cost, goodput_slo)
    return capacity_row(
        lambda load: row_of(simulation.run(load, size), slo, cost, goodput_slo), workload, slo
    )


def capacity_row(
    row_at: Callable[[Workload], dict[str, float]],
    workload: Workload,
    slo: RunSlo,
    start_rate_per_s: float | None = None,
    **search,
) -> dict[str, float]:
    """Row at the highest rate at which `workload` keeps `slo`, with capacity_per_s and num_trials.

    row_at: takes a workload, returns its row. Where no rate keeps it, capacity is 0 and the row
    is that of the lowest rate tried. search: further arguments of `find_capacity`.
    """
    from coursekit.optimizers.capacity import find_capacity

    rows: dict[float, dict[str, float]] = {}

    def holds(rate_per_s: float) -> bool:
        rows[rate_per_s] = row_at(at_rate(workload, rate_per_s))
        return keeps(rows[rate_per_s], slo)

    found = find_capacity(holds, start_rate_per_s or rate_of(workload), **search)
    kept = [rate for rate, row in rows.items() if keeps(row, slo) and rate <= found.rate_per_s]
    row = rows[max(kept)] if kept else rows[min(rows)]
    return {"capacity_per_s": max(kept, default=0.0), "num_trials": len(rows), **row}


def rate_of(workload: Workload) -> float:
    """Requests per second. Raises ValueError for a workload that arrives all at once."""
    last_s = float(workload.arrival_s[-1]) if len(workload) else 0.0
    if last_s <= 0:
        raise ValueError(
            "capacity needs arrivals spread over time, got all at 0 s: draw them, say with poisson"
        )
    return len(workload) / last_s


def at_rate(workload: Workload, rate_per_s: float) -> Workload:
    """The same requests in the same pattern, faster or slower."""
    return Workload(
        workload.arrival_s * (rate_of(workload) / rate_per_s), workload.num_prompt_tokens,
        workload.num_output_tokens, workload.priority, workload.priority_class,
        workload.prompt_token_ids,
    )  # fmt: skip
