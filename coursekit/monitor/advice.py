"""Advice on a server's settings: what to turn, to where, on what evidence, and from which source.

Each rule looks at a `Reading` alone; numbers to turn to come from a cost model of the server or are
counted, never guessed. Where the data or the model do not carry a rule, it gives no advice and a
note says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isnan
from typing import NamedTuple

from coursekit.cost.base import CostModel
from coursekit.metrics import Slo
from coursekit.monitor.estimate import milliseconds
from coursekit.monitor.headroom import (
    budget_that_holds, full_iteration_s, full_share, seats_that_fit, work_of,
)  # fmt: skip
from coursekit.monitor.reading import Reading

MIN_GAPS = 300  # a P99 then rests on the 3 longest
MIN_REQUESTS = 20  # a P95 on the longest
PREFILL_AT_P99 = 0.01  # share of iterations full of prefill from which on they make the P99
SLACK = 0.8  # of the SLO: an ITL P99 below it leaves room
KV_FULL = 0.9
SEATS_FULL = 0.95
QUEUE_LIMIT_S = 1.0  # without a TTFT SLO; with one, half of it
BELIEVED = 2.0  # a model whose prediction is this far off what was seen is not of this server
WORTHWHILE = 0.9  # of the budget: a cut by less is finer than cost models are
LARGEST_BUDGET = 16_384  # vLLM's default on the largest devices
NO_COST = "the rule alone: give a cost model and the token budget for the number"


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server was started with; None: not known. /metrics does not tell either.

    token_budget: `max_num_batched_tokens`; max_num_seqs: requests that run at once. Raises
    ValueError for less than 1.
    """

    token_budget: int | None = None
    max_num_seqs: int | None = None

    def __post_init__(self):
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")


@dataclass(frozen=True, slots=True)
class Advice:
    """turn: the setting; to: its new value, None where no number can be given; how: in words.

    evidence: the numbers it rests on, by name; source: where `to` is from.
    """

    turn: str
    how: str
    to: int | None
    why: str
    evidence: dict[str, str] = field(default_factory=dict)
    source: str = "the rule alone"

    def __str__(self) -> str:
        target = "" if self.to is None else f" to {self.to}"
        return f"{self.how} {self.turn}{target}: {self.why}"


class Counsel(NamedTuple):
    """Advice, and notes on what there is none about and why."""

    advice: tuple[Advice, ...]
    notes: tuple[str, ...]


class _Case(NamedTuple):
    reading: Reading
    slo: Slo
    settings: ServerSettings
    cost: CostModel | None


def advise(
    reading: Reading, slo: Slo, settings: ServerSettings = ServerSettings(),
    cost: CostModel | None = None,
) -> Counsel:  # fmt: skip
    """What to turn on the server of `reading`, to keep `slo` (its itl_s for P99, its ttft_s).

    cost: of the server's model on its device; without it advice has a direction and no number.
    """
    case = _Case(reading, slo, settings, cost)
    advice, notes = [], []
    if not reading.is_up:
        return Counsel((), ("the server does not answer: no advice on what it was",))
    for rule in (_on_itl, _on_memory, _on_queue):
        found = rule(case)
        (advice if isinstance(found, Advice) else notes).append(found)
    return Counsel(tuple(advice), tuple(note for note in notes if note))


# --- ITL over the SLO ---


def _on_itl(case: _Case) -> Advice | str:
    reading, itl, limit_s = case.reading, case.reading.itl, case.slo.itl_s
    if limit_s is None:
        return "ITL: no SLO is given, so nothing is judged"
    if itl.n < MIN_GAPS:
        return f"ITL: {itl.n} gaps were seen, a P99 needs {MIN_GAPS}: no advice"
    p99 = f"ITL: P99 {milliseconds(itl.p99)}"
    if itl.p99.high <= limit_s:
        return f"{p99} keeps the SLO of {1e3 * limit_s:.4g} ms"
    if itl.p99.low < limit_s:
        return (
            f"{p99}, and the SLO of {1e3 * limit_s:.4g} ms lies within these bounds: whether it is "
            "kept can't be told. vLLM's --custom-histogram-buckets puts a bound there"
        )
    share = full_share(reading, case.settings.token_budget)
    if isnan(share):
        return (
            f"{p99} is over the SLO, and whether prefill is why can't be told: give the token "
            "budget, and wait for prompts"
        )
    evidence = _itl_evidence(case, share)
    if share < PREFILL_AT_P99:
        why = "gaps are over the SLO with hardly any prefill: the decodes alone are too many"
        return Advice("max_num_seqs", "lower", None, why, evidence)
    return _lower_budget(case, evidence)


def _lower_budget(case: _Case, evidence: dict[str, str]) -> Advice | str:
    limit_s, budget, cost = case.slo.itl_s, case.settings.token_budget, case.cost
    why = "iterations full of prefill tokens make the longest gaps"
    if cost is None:
        return Advice("max_num_batched_tokens", "lower", None, why, evidence, NO_COST)
    work = work_of(case.reading)
    if work is None:
        return "ITL: over the SLO, but running requests or their lengths were not seen: no number"
    predicted_s, source = full_iteration_s(cost, work, budget)
    predicted = f"{1e3 * predicted_s:.4g} ms for a full iteration at budget {budget}"
    seen_s = case.reading.itl.p99.value
    if predicted_s <= limit_s or not 1 / BELIEVED <= seen_s / predicted_s <= BELIEVED:
        return (
            f"ITL: P99 {1e3 * seen_s:.4g} ms is over the SLO, but {cost.label} predicts "
            f"{predicted}: it is not a model of this server, so no number is given; lower "
            "the budget and look again"
        )
    evidence = {**evidence, "predicted": predicted}
    held = budget_that_holds(cost, work, limit_s, budget)
    if held is None:
        why = "by the cost model the decodes alone leave no budget that holds the SLO"
        return Advice("max_num_seqs", "lower", None, why, evidence, source)
    if held > WORTHWHILE * budget:
        return (
            f"ITL: P99 {1e3 * seen_s:.4g} ms is over the SLO, but by {cost.label} {budget} is "
            "about the budget that holds it: too near for this model to tell"
        )
    _, source = full_iteration_s(cost, work, held)
    return Advice("max_num_batched_tokens", "lower", held, why, evidence, source)


def _itl_evidence(case: _Case, share: float) -> dict[str, str]:
    reading, limit_s = case.reading, case.slo.itl_s
    p99, n = reading.itl.p99, reading.itl.n
    return {
        "ITL P99": f"{milliseconds(p99)} over {n:,} gaps; SLO {1e3 * limit_s:.4g} ms",
        "iterations full of prefill": f"at least {share:.1%} of {reading.iteration_tokens.n:,}",
        "running requests": f"{reading.num_running:.1f} (mean)",
    }


# --- Memory ---


def _on_memory(case: _Case) -> Advice | str:
    reading = case.reading
    if isnan(reading.num_preemptions):
        return "memory: preemptions are not counted here"
    if not reading.num_preemptions:
        return ""
    if not reading.kv_usage_max >= KV_FULL:
        return (
            f"memory: {reading.num_preemptions:g} preemptions, but a KV usage of at most "
            f"{reading.kv_usage_max:.0%} was seen: look more often"
        )
    evidence = {
        "preemptions": f"{reading.num_preemptions:g} in {reading.span_s:.0f} s",
        "KV usage": f"at most {reading.kv_usage_max:.0%}, mean {reading.kv_usage:.0%}",
        "running requests": f"{reading.num_running:.1f} (mean)",
    }
    seats, source = seats_that_fit(reading)
    why = (
        "the KV cache is full, and what is preempted is computed again; more KV memory would do "
        "as well"
    )
    return Advice("max_num_seqs", "lower", seats, why, evidence, source)


# --- Queue ---


def _on_queue(case: _Case) -> Advice | str:
    reading, queue, limit_s = case.reading, case.reading.queue, case.slo.itl_s
    most_s = QUEUE_LIMIT_S if case.slo.ttft_s is None else case.slo.ttft_s / 2
    if queue.n < MIN_REQUESTS:
        return f"queue: {queue.n} requests were seen, a P95 needs {MIN_REQUESTS}: no advice"
    if queue.p95.value <= most_s:
        return ""
    if reading.num_preemptions and reading.kv_usage_max >= KV_FULL:
        return "queue: long, as the KV cache is full: see memory"
    if limit_s is None or reading.itl.n < MIN_GAPS:
        return "queue: long, but without an SLO on ITL and enough gaps its slack can't be told"
    limit = f"limit {1e3 * most_s:.4g} ms"
    evidence = {
        "queue time P95": f"{milliseconds(queue.p95)} over {queue.n:,} requests; {limit}",
        "ITL P99": f"{milliseconds(reading.itl.p99)}; SLO {1e3 * limit_s:.4g} ms",
    }
    if reading.itl.p99.high > SLACK * limit_s:
        why = "requests queue and ITL has no slack to give: shed load or add a replica"
        return Advice("load", "lower", None, why, evidence)
    seats = case.settings.max_num_seqs
    if seats is not None and reading.num_running >= SEATS_FULL * seats:
        evidence["running requests"] = f"{reading.num_running:.1f} (mean) of {seats}"
        why = "requests queue for a seat while ITL has slack"
        return Advice("max_num_seqs", "raise", None, why, evidence)
    return _raise_budget(case, evidence)


def _raise_budget(case: _Case, evidence: dict[str, str]) -> Advice | str:
    why, budget, cost = "requests queue while ITL has slack", case.settings.token_budget, case.cost
    work = work_of(case.reading)
    if cost is None or budget is None or work is None:
        return Advice("max_num_batched_tokens", "raise", None, why, evidence, NO_COST)
    held = budget_that_holds(cost, work, case.slo.itl_s, LARGEST_BUDGET)
    if held is None or held <= budget:
        return (
            f"queue: long, and ITL has slack, but by {cost.label} no larger budget than {budget} "
            "holds the SLO once it is full: no advice"
        )
    _, source = full_iteration_s(cost, work, held)
    return Advice("max_num_batched_tokens", "raise", held, why, evidence, source)
