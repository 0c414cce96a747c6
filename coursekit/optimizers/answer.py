"""The answer of an optimizer: a size or none, why, and the whole table.

`decide` makes it from a table that says for each size what it gives and whether it keeps the SLO.
Where the numbers are from, simulated or measured, is not its matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from coursekit.optimizers.objective import OBJECTIVES, Limit, RunSlo, limits_of
from coursekit.optimizers.pareto import pareto_front

if TYPE_CHECKING:
    import pandas as pd

SAME = 1e-9  # relative: objectives closer than this are the same


class Neighbour(NamedTuple):
    """The next size up or down: its objective, and the limits that it misses."""

    size: int
    value: float
    misses: tuple[Limit, ...]


class Nearest(NamedTuple):
    """Where no size keeps the SLO: the one that comes closest, and the SLO that it would keep.

    must_become: name of each limit that it misses -> the seconds that it would have to be.
    """

    size: int
    misses: tuple[Limit, ...]
    must_become: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What to set, and why.

    knob: what a size is, "token_budget" or "chunk_size". chosen: the size of the largest
    `objective` among those that keep `slo`; None if none does, and then `nearest` is set.
    table: a row a size (pandas, index `knob`), with columns value (the objective's), feasible,
    pareto, rates and percentiles. binding: the limit, at the chosen size, that keeps out the
    next better one; None if no size would do better without limits. closest: the limit with the
    least of it to spare. larger, smaller: the chosen one's neighbours. label: where the
    numbers are from. note: what else is to be said of them.
    """

    knob: str
    objective: str
    slo: RunSlo
    label: str
    table: pd.DataFrame
    chosen: int | None
    binding: Limit | None
    closest: Limit | None
    larger: Neighbour | None
    smaller: Neighbour | None
    nearest: Nearest | None
    note: str = ""

    @property
    def feasible(self) -> bool:
        """Whether any size keeps the SLO."""
        return self.chosen is not None

    @property
    def value(self) -> float:
        """The objective at the chosen size; nan without one."""
        return float(self.table["value"][self.chosen]) if self.feasible else float("nan")

    @property
    def pareto(self) -> pd.DataFrame:
        """The rows on the Pareto front of throughput, TTFT P99 and ITL P99."""
        return self.table[self.table["pareto"]]

    def explain(self) -> str:
        """The answer in a few sentences."""
        from coursekit.optimizers.explain import explain

        return explain(self)


def decide(
    table: pd.DataFrame,
    knob: str,
    objective: str,
    slo: RunSlo,
    label: str,
    chosen: int | None = None,
    note: str = "",
) -> Answer:
    """The answer that a table gives.

    table: index sizes in rising order; columns value, feasible, the SLO's and the aims of the
    front; rows of sizes that could not be run are nan. chosen: a feasible size, if that was
    decided elsewhere. Raises ValueError for a table in which nothing could be run.
    """
    known = table[table["value"].notna()]
    if known.empty:
        reason = table["error"].iloc[0] if "error" in table else "it is empty"
        raise ValueError(f"no {knob} could be run: {reason}")
    table = table.assign(pareto=pareto_front(*_aims(table)))
    if not known["feasible"].any():
        nearest = _nearest(known, slo)
        return Answer(
            knob, objective, slo, label, table, None, None, None, None, None, nearest, note
        )  # fmt: skip
    size = int(chosen if chosen is not None else _best(known, slo))
    closest = max(limits_of(known.loc[size], slo), key=lambda limit: limit.ratio)
    binding = closest if objective == "capacity" else _binding(known, size, slo)
    return Answer(
        knob, objective, slo, label, table, size, binding, closest,
        _neighbour(known, size, slo, 1), _neighbour(known, size, slo, -1), None, note,
    )  # fmt: skip


def _aims(table: pd.DataFrame) -> tuple[np.ndarray, list[bool]]:
    """What the front is of: throughput (or capacity) up, the two P99s down, as far as known."""
    rate = OBJECTIVES["capacity"] if OBJECTIVES["capacity"] in table else "tokens_per_s"
    columns = [c for c in (rate, "ttft_p99_s", "itl_p99_s", "max_blocking_time_s") if c in table]
    if "itl_p99_s" in columns and "max_blocking_time_s" in columns:
        columns.remove("max_blocking_time_s")  # it is the ITL's twin: two of one weigh double
    return table[columns].to_numpy(float), [column == rate for column in columns]


def _best(known: pd.DataFrame, slo: RunSlo) -> int:
    """The feasible size of the largest value; of equal ones that with the most to spare."""
    kept = known[known["feasible"]]
    ties = kept[kept["value"] >= kept["value"].max() * (1 - SAME)]
    return min(ties.index, key=lambda size: _worst(ties.loc[size], slo))


def _worst(row, slo: RunSlo) -> float:
    return max(limit.ratio for limit in limits_of(row, slo))


def _binding(known: pd.DataFrame, size: int, slo: RunSlo) -> Limit | None:
    """The limit that the nearest better size misses most, as it stands at `size`."""
    better = known[~known["feasible"] & (known["value"] > known["value"][size] * (1 + SAME))]
    if better.empty:
        return None
    next_one = min(better.index, key=lambda other: abs(np.log(other / size)))
    missed = max(limits_of(better.loc[next_one], slo), key=lambda limit: limit.ratio).name
    return next(limit for limit in limits_of(known.loc[size], slo) if limit.name == missed)


def _neighbour(known: pd.DataFrame, size: int, slo: RunSlo, step: int) -> Neighbour | None:
    place = known.index.get_loc(size) + step
    if not 0 <= place < len(known):
        return None
    row = known.iloc[place]
    misses = tuple(limit for limit in limits_of(row, slo) if limit.slack_s < 0)
    return Neighbour(int(known.index[place]), float(row["value"]), misses)


def _nearest(known: pd.DataFrame, slo: RunSlo) -> Nearest:
    size = min(known.index, key=lambda other: _worst(known.loc[other], slo))
    limits = limits_of(known.loc[size], slo)
    misses = tuple(limit for limit in limits if limit.slack_s < 0)
    return Nearest(int(size), misses, {limit.name: limit.value_s for limit in misses})
