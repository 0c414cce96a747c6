"""How well the frugal search does against the truth, over many noisy engines.

The truth of a case is the mean of many runs of the noisy engine at every size. A search is right
if its size's true objective is within 3% of the best size that truly keeps the SLO, and if that
size keeps the SLO itself, give or take 3% of a limit, about what the noise of a run hides.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from coursekit.metrics import Slo
from coursekit.optimizers.chunk_size import ChunkSizeOptimizer
from coursekit.optimizers.objective import OBJECTIVES, RunSlo, keeps, row_of
from tests.optimizers.noisy_engine import SIZES, NoisyEngine, load

TRUTH_RUNS = 16
NUM_REPEATS = 3  # of the exhaustive search
BLUR = 1.03


class Case(NamedTuple):
    """A workload, an SLO and an objective."""

    kind: str
    rate: float
    slo: RunSlo
    objective: str
    goodput_slo: Slo | None = None
    seed: int = 3
    num_requests: int = 40

    @property
    def workload(self):
        return load(self.rate, self.seed, self.num_requests, self.kind)


CASES = {
    "chats at once, throughput, ITL P99 60 ms": Case(
        "chat", 100, RunSlo(itl_s=0.06, ttft_s=30), "throughput"),
    "chats at once, throughput, ITL P99 15 ms": Case(
        "chat", 50, RunSlo(itl_s=0.015), "throughput", seed=13),
    "chats, goodput, ITL P99 25 ms": Case(
        "chat", 8, RunSlo(itl_s=0.025, ttft_s=1.0), "goodput", Slo(ttft_s=0.4), 23),
    "documents, goodput, ITL P99 80 ms": Case(
        "documents", 2.5, RunSlo(itl_s=0.08, ttft_s=3), "goodput", seed=33),
    "documents at once, throughput, blocking 80 ms": Case(
        "documents", 20, RunSlo(max_blocking_time_s=0.08), "throughput", seed=43),
    "documents at once, nothing feasible": Case(
        "documents", 20, RunSlo(itl_s=0.009), "throughput", seed=53),
}  # fmt: skip


class Found(NamedTuple):
    """One search: objective / the best, whether the SLO is kept, measurements, and confidence.

    ratio is 1 and kept is True for one that says rightly that nothing is feasible.
    """

    ratio: float
    kept: bool
    num_runs: int
    num_exhaustive: int
    chosen: int | None

    @property
    def right(self) -> bool:
        """Within 3% of the best, and within the SLO."""
        return self.ratio >= 0.97 and self.kept


@lru_cache(maxsize=16)
def truth(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Objective, and worst of value / limit, by size: means over TRUTH_RUNS runs."""
    engine, values, over = NoisyEngine(10_000 + case.seed), [], []
    for size in SIZES:
        engine.token_budget = size
        rows = [_row(case, engine) for _ in range(TRUTH_RUNS)]
        values.append(np.mean([row[OBJECTIVES[case.objective]] for row in rows]))
        over.append(max(
            np.mean([row[column] for row in rows]) / limit
            for column, limit in case.slo.limits.items()
        ))  # fmt: skip
    return np.array(values), np.array(over)


def _row(case: Case, engine: NoisyEngine) -> dict[str, float]:
    trace = engine.run(case.workload.source())
    return row_of(trace, case.slo, engine.cost, case.goodput_slo or case.slo.per_request())


def _held_against(values, over, chosen: int | None, num_runs: int) -> Found:
    feasible, num_exhaustive = over <= 1, NUM_REPEATS * len(SIZES)
    if chosen is None:
        right = not (over <= 1 / BLUR).any()
        return Found(float(right), right, num_runs, num_exhaustive, None)
    place = SIZES.index(chosen)
    ratio = float(values[place] / values[feasible].max()) if feasible.any() else 0.0
    return Found(ratio, bool(over[place] <= BLUR), num_runs, num_exhaustive, chosen)


def try_once(case: Case, seed: int) -> Found:
    """One frugal search on a noisy engine of this seed, held against the truth."""
    values, over = truth(case)
    numbers = []
    answer = ChunkSizeOptimizer(NoisyEngine(seed), case.workload, SIZES).optimize(
        case.slo, case.objective, case.goodput_slo, num_repeats=NUM_REPEATS,
        on_run=lambda number, size: numbers.append(number),
    )  # fmt: skip
    return _held_against(values, over, answer.chosen, numbers[-1])


def try_exhaustively(case: Case, seed: int) -> Found:
    """The same held against the truth for a search that runs every size NUM_REPEATS times."""
    values, over = truth(case)
    engine, seen = NoisyEngine(seed), []
    for size in SIZES:
        engine.token_budget = size
        rows = [_row(case, engine) for _ in range(NUM_REPEATS)]
        seen.append({name: np.mean([row[name] for row in rows]) for name in rows[0]})
    kept = [place for place, row in enumerate(seen) if keeps(row, case.slo)]
    num_runs = NUM_REPEATS * len(SIZES)
    if not kept:
        return _held_against(values, over, None, num_runs)
    best = max(kept, key=lambda place: seen[place][OBJECTIVES[case.objective]])
    return _held_against(values, over, SIZES[best], num_runs)
