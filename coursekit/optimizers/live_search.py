"""A frugal search on a live engine: few runs, chosen where they tell most, judged with their noise.

The first runs calibrate a cost, and simulation foretells every size (`rehearsal`). Each run then
corrects the forecast for its size and its neighbours (`posterior`). The next one goes to the
size that looks best or to its strongest rival, after the top-two sampling of Russo (arXiv
1602.08448). It ends when the best is known well enough, or the runs are used up. An answer's
verdicts carry the probability that they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from coursekit.metrics import Slo
from coursekit.optimizers.answer import Answer, decide
from coursekit.optimizers.belief import TOLERANCE, Belief, believe
from coursekit.optimizers.live_source import LiveSource
from coursekit.optimizers.objective import BLOCKING, OBJECTIVES, RunSlo, keeps, limits_of
from coursekit.optimizers.rehearsal import calibrate, quietly, simulation_like
from coursekit.optimizers.simulated import evaluate
from coursekit.trace import Trace
from coursekit.workload import Workload
from coursekit.workload.checks import count

NUM_REPEATS = 3  # of each size, in the exhaustive search that this one is measured against
NUM_REHEARSALS = 4
MIN_RUNS = 2  # of the chosen size, so that its own repeats say how sure it is


@dataclass(frozen=True, slots=True)
class Task:
    """What is searched for: a workload, an SLO, an objective, and the sizes."""

    workload: Workload
    slo: RunSlo
    objective: str
    goodput_slo: Slo | None
    sizes: tuple[int, ...]

    @property
    def columns(self) -> list[str]:
        """What is estimated by size: the objective, and the limits unless they are met by it."""
        limits = [] if self.objective == "capacity" else [*self.slo.limits]
        return [OBJECTIVES[self.objective], *limits]


def search(
    source,
    workload: Workload,
    sizes: Sequence[int] | None,
    slo: RunSlo,
    objective: str = "throughput",
    goodput_slo: Slo | None = None,
    num_repeats: int = NUM_REPEATS,
    max_runs: int | None = None,
    confidence: float = 0.99,
    on_run: Callable[[int, int], None] | None = None,
) -> Answer:
    """The best size, found in at most a third of an exhaustive search's measurements.

    source: an engine, or a function that makes one. num_repeats: of each size in the exhaustive
    search; max_runs: most measurements, a third of that search's if None, and at least 2. A
    measurement is one run of the workload, or for "capacity" one bracketing search of runs.
    confidence: the probability at which it ends early, that the size is within 3% of the best
    that keeps the SLO. on_run: told of each measurement, its number and its size.
    The answer's table has columns num_runs, sd (of value), p_feasible, and ci_low, ci_high (95%).
    Raises ValueError for sizes past the engine's budget, for limits out of range, and if the
    records can't calibrate a cost.
    """
    count("num_repeats", num_repeats)
    if objective == "capacity" and BLOCKING in slo.limits:
        raise ValueError(
            "capacity of a live engine can't be judged by max_blocking_time_s, which needs a cost "
            f"model, got {slo.max_blocking_time_s}: limit itl_s, or calibrate a CalibratedCost"
        )
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be in [0.5, 1), got {confidence}: 0.99 is usual")
    with LiveSource(source) as live:
        task = Task(workload, slo, objective, goodput_slo, live.sizes(sizes))
        allowed = max(2, len(task.sizes) * num_repeats // 3)
        allowed = count("max_runs", max_runs) if max_runs is not None else allowed
        if allowed < 2:
            raise ValueError(f"max_runs must be >= 2, two sizes calibrate a cost, got {allowed}")
        return _Search(live, task, allowed, confidence, on_run).run()


class _Search:
    """What has been measured so far, and what it says."""

    def __init__(self, live: LiveSource, task: Task, allowed: int, confidence: float, on_run):
        self.live, self.task, self.allowed, self.confidence = live, task, allowed, confidence
        self.on_run = on_run or (lambda number, size: None)
        self.at: list[int] = []  # place in `sizes` of each measurement
        self.rows: list[dict[str, float]] = []
        self.traces: list[Trace] = []
        self.calibration = self.rehearsed = None

    def run(self) -> Answer:
        self.live.warm_up(self.task.workload)
        for place in _first_places(len(self.task.sizes)):
            self._measure(place)
        belief = self._believe()
        while len(self.at) < self.allowed:
            place = self._ruled_out_unheard(belief)
            if place is None:
                known = self._counts()[belief.leader] >= MIN_RUNS
                if known and belief.confidence >= self.confidence:
                    break
                place = belief.next_place(self._counts(), self.allowed - len(self.at), MIN_RUNS)
            self._measure(place)
            belief = self._believe()
        return self._answer(belief)

    def _ruled_out_unheard(self, belief: Belief) -> int | None:
        """A better size that the forecast rules out although its own runs kept the SLO, if they
        are fewer than MIN_RUNS: a forecast may err in where a percentile jumps."""
        counts, least = self._counts(), (1 + TOLERANCE) * belief.objective.mean[belief.leader]
        for place in np.flatnonzero((counts > 0) & (counts < MIN_RUNS)).tolist():
            seen = [row for at, row in zip(self.at, self.rows, strict=True) if at == place]
            if (
                belief.p_feasible[place] < 0.5 and belief.objective.mean[place] > least
                and keeps(_mean_row(seen), self.task.slo)
            ):  # fmt: skip
                return place
        return None

    def _counts(self) -> np.ndarray:
        """Measurements of each size, (num_sizes,)."""
        return np.bincount(self.at, minlength=len(self.task.sizes))

    def _measure(self, place: int) -> None:
        size = self.task.sizes[place]
        cost = self.calibration and self.calibration.cost
        expected = self.rehearsed and self.rehearsed[place][0].get("capacity_per_s")
        row, traces = self.live.measure(self.task, size, cost, expected)
        self.at.append(place)
        self.rows.append(row)
        self.traces += traces
        self.on_run(len(self.at), size)

    def _believe(self) -> Belief:
        """What is to be thought of each size now; a new forecast when the records have doubled."""
        if self.calibration is None or len(self.at) in (4, 8, 16, 32):
            self._rehearse()
        forecast = np.array([
            [[row[column] for column in self.task.columns] for row in rows]
            for rows in self.rehearsed
        ])  # (num_sizes, num_rehearsals, num_columns)  # fmt: skip
        seen = np.array([[row[column] for column in self.task.columns] for row in self.rows])
        return believe(self.task, forecast, np.array(self.at), seen)

    def _rehearse(self) -> None:
        """Calibrate on all records, and simulate every size several times with their noise."""
        task = self.task
        self.calibration = calibrate(self.traces, self.live.label)
        self.rehearsed = [
            [self._rehearse_once(size, seed) for seed in range(NUM_REHEARSALS)]
            for size in task.sizes
        ]
        # blocking time is reckoned with the cost, so earlier runs are read again with this one
        self.rows = self.live.rows(task, self.calibration.cost)

    def _rehearse_once(self, size: int, seed: int) -> dict[str, float]:
        task = self.task
        cost = self.calibration.noisy(seed)
        simulation = simulation_like(self.traces[0], self.live.knob, cost)
        return quietly(
            evaluate, simulation, task.workload, task.slo, task.objective, task.goodput_slo, size
        )

    def _answer(self, belief: Belief) -> Answer:
        import pandas as pd

        task, counts = self.task, self._counts()
        rows = []
        for place, size in enumerate(task.sizes):
            seen = [row for at, row in zip(self.at, self.rows, strict=True) if at == place]
            row = _mean_row(seen or self.rehearsed[place]) | belief.row(place)
            rows.append({self.live.knob: size, **row, "num_runs": int(counts[place])})
        table = pd.DataFrame(rows).set_index(self.live.knob)
        chosen = belief.choose(counts)
        size = None if chosen is None else task.sizes[chosen]
        note = _note(self, belief, chosen)
        return decide(
            table, self.live.knob, task.objective, task.slo, self.live.label, size, note
        )  # fmt: skip


def _first_places(num_sizes: int) -> list[int]:
    """A smaller and a larger size: what lies between and around them can be foretold."""
    return sorted({num_sizes // 4, (3 * num_sizes) // 4})


def _mean_row(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _note(search: _Search, belief: Belief, chosen: int | None) -> str:
    """How sure the answer is, and what it took."""
    task, total = search.task, len(search.at)
    spent = f"{total} measurements of {len(set(search.at))} out of {len(task.sizes)} sizes"
    if chosen is None:
        return f"That no size keeps the SLO is {belief.p_infeasible:.0%} sure, after {spent}."
    low, high = belief.interval(chosen)
    row = belief.row(chosen)
    closest = max(limits_of(row, task.slo), key=lambda limit: limit.ratio) if (
        task.objective != "capacity"
    ) else None
    kept = f"it keeps the SLO with a probability of {row['p_feasible']:.0%}"
    if closest is not None and row["p_feasible"] < 0.95:
        kept += f", {closest.name} being within the noise of its limit"
    return (
        f"95% interval {low:.4g} to {high:.4g}; {kept}, and is within {TOLERANCE:.0%} of the best "
        f"with {belief.confidence_of(chosen):.0%}, after {spent}."
    )
