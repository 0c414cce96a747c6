"""What `recommend` answers: a configuration, or none and the nearest SLO that one would keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from coursekit.deploy.settings import ChunkedPrefillConfig
from coursekit.optimizers import Answer, RunSlo


class NearestSlo(NamedTuple):
    """An SLO that can be kept, the nearest seen, and the settings that keep it; threshold 0: no cap."""

    slo: RunSlo
    token_budget: int
    threshold: int


@dataclass(frozen=True, slots=True, eq=False)
class Recommendation:
    """The configuration, or None where nothing keeps the SLO, and how it was found.

    answer: of the budgets; capped: of the caps on one request under the budget that was chosen, None
    where there is nothing to cap. num_preemptions: in the simulated run. nearest: without a
    configuration, see `NearestSlo` (None if every setting leaves a request unserved).
    """

    config: ChunkedPrefillConfig | None
    answer: Answer
    capped: Answer | None
    num_preemptions: int | None
    nearest: NearestSlo | None

    @property
    def feasible(self) -> bool:
        """Whether there is a configuration that keeps the SLO."""
        return self.config is not None

    @property
    def label(self) -> str:
        """Where the numbers are from."""
        return self.answer.label

    def explain(self) -> str:
        """What to set and why; or that nothing keeps the SLO, and which one would be kept."""
        if self.config is not None:
            return self.config.explain()
        text = f"No configuration. {self.answer.explain()}"
        if self.nearest is None:
            return f"{text} Some requests are never served: send fewer, or take a larger device."
        slo, budget, threshold = self.nearest
        asked = [
            f"{name}={getattr(slo, name):g}"
            for name in ("itl_s", "ttft_s", "max_blocking_time_s")
            if getattr(slo, name) is not None
        ]
        cap = f", at most {threshold:,} of one request," if threshold else ""
        return (
            f"{text} Nearest SLO that can be kept: RunSlo({', '.join(asked)}), by a token budget of "
            f"{budget:,}{cap} out of all that was tried."
        )


def nearest(answers: Sequence[Answer]) -> NearestSlo | None:
    """Of infeasible answers, on budgets or on caps under one, the SLO that the nearest would keep."""
    found = [(slo, answer) for answer in answers if (slo := relaxed(answer)) is not None]
    if not found:
        return None
    slo, answer = min(found, key=lambda each: max(miss.ratio for miss in each[1].nearest.misses))
    size = answer.nearest.size
    if answer.knob == "token_budget":
        return NearestSlo(slo, size, 0)
    budget = int(answer.table.index[-1])
    return NearestSlo(slo, budget, size if size < budget else 0)


def relaxed(answer: Answer) -> RunSlo | None:
    """The SLO of the nearest size, its misses relaxed to what it reaches, rounded up to 3 digits."""
    row, changed = answer.table.loc[answer.nearest.size], {}
    for column, limit in answer.slo.limits.items():
        reached = float(row[column])
        if not math.isfinite(reached):
            return None
        if reached > limit:
            digit = 10.0 ** (math.floor(math.log10(reached)) - 2)
            # column itl_p99_s -> field itl_s
            name = column if column.startswith("max") else f"{column.split('_')[0]}_s"
            changed[name] = float(f"{math.ceil(reached / digit) * digit:.3g}")
    return replace(answer.slo, **changed)
