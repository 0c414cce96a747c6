"""Controllers of the token budget against the best fixed budget in hindsight, simulated.

Three kinds of trouble: load that comes in steps, bursts of long prompts among decoding streams,
and a device that becomes slower as it works, which no cost model was told. A fixed budget is chosen
afterwards, with the outcome of all of them known; a controller has only what it sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from coursekit.chunking.adaptive import AdaptiveChunkedPrefill, FixedBudget
from coursekit.chunking.adaptive.state import Controller
from coursekit.cost.base import CostModel
from coursekit.engine import Engine
from coursekit.itl import itls
from coursekit.metrics import Slo, num_stalls, totals
from coursekit.schedulers import StallFree
from coursekit.trace import Trace
from coursekit.workload import Workload, lognormal

if TYPE_CHECKING:
    import pandas as pd

FIXED_BUDGETS = tuple(round(2 ** (power / 2)) for power in range(12, 24))  # 64 to 2,896
MAX_NUM_SEQS = 64
MAX_TOKEN_BUDGET = 4096


@dataclass(frozen=True, slots=True)
class Scenario:
    """A workload, what its requests were promised, and what becomes of the device.

    stationary_s: (from, to) seconds in which the load stands still and a budget has no reason
    to move. slowdown: seconds of work done so far -> by what the device is slower.
    """

    name: str
    workload: Workload
    slo: Slo
    stationary_s: tuple[tuple[float, float], ...]
    slowdown: Callable[[float], float] = lambda busy_s: 1.0


@dataclass(frozen=True, slots=True)
class ControlledRun:
    """What came of one scenario under one controller.

    budgets: of each iteration, (num_iterations,). goodput_per_s: requests per second that kept
    both limits; num_violations: ITLs over the limit, of num_itls; prefill_tokens_per_s: over the
    iterations that held any; oscillation: mean |log2| of the budget's change from one iteration
    with prompt tokens to the next, while the load is stationary (1: it halves or doubles).
    """

    name: str
    trace: Trace
    budgets: np.ndarray
    goodput_per_s: float
    slo_fraction: float
    num_violations: int
    num_itls: int
    worst_itl_s: float
    ttft_p99_s: float
    prefill_tokens_per_s: float
    oscillation: float


class SlowingExecutor:
    """A simulated device whose times grow as `slowdown` says; it can't be asked ahead of time."""

    def __init__(self, cost: CostModel, slowdown: Callable[[float], float]):
        self.label = cost.label
        self._iteration_s, self._slowdown, self._busy_s = cost.iteration_s, slowdown, 0.0

    def execute(self, batch) -> float:
        """Seconds that the batch takes."""
        seconds = self._iteration_s(batch.num_decodes, batch.decode_context, batch.chunks)
        seconds *= self._slowdown(self._busy_s)
        self._busy_s += seconds
        return seconds


def play(
    scenario: Scenario, cost: CostModel, controller: Controller, name: str = ""
) -> ControlledRun:
    """Simulate `scenario` on a device that costs `cost`, stall-free under `controller`."""
    policy = StallFree(MAX_TOKEN_BUDGET, MAX_NUM_SEQS)
    scheduler = AdaptiveChunkedPrefill(policy, controller)
    executor = SlowingExecutor(cost, scenario.slowdown)
    trace = Engine(scheduler, executor).run(scenario.workload.source())
    return judge(name or type(controller).__name__, trace, np.array(scheduler.budgets), scenario)


def judge(name: str, trace: Trace, budgets: np.ndarray, scenario: Scenario) -> ControlledRun:
    """The figures of a run; budgets: (num_iterations,)."""
    found = totals(trace, scenario.slo)
    gaps_s, weights = itls(trace)
    ttft_s = trace.requests["first_token_s"] - trace.requests["arrival_s"]
    iterations = trace.iterations
    filling = iterations["num_prefill_tokens"] > 0
    seconds = (iterations["end_s"] - iterations["start_s"])[filling].sum()
    return ControlledRun(
        name, trace, budgets, found["goodput_per_s"], found["slo_fraction"],
        num_stalls(trace, scenario.slo.itl_s), int(weights.sum()), float(gaps_s.max()),
        float(np.nanpercentile(ttft_s, 99)),
        float(iterations["num_prefill_tokens"].sum() / seconds),
        oscillation(trace, budgets, scenario.stationary_s),
    )  # fmt: skip


def oscillation(
    trace: Trace, budgets: np.ndarray, stationary_s: Sequence[tuple[float, float]]
) -> float:
    """Mean |log2| of the budget's change between iterations with prompt tokens; nan for none."""
    start_s, filling = trace.iterations["start_s"], trace.iterations["num_prefill_tokens"] > 0
    changes = []
    for begin_s, end_s in stationary_s:
        kept = budgets[filling & (start_s >= begin_s) & (start_s < end_s)]
        changes.append(np.abs(np.diff(np.log2(kept))))
    changes = np.concatenate(changes) if changes else np.array([])
    return float(changes.mean()) if len(changes) else float("nan")


def best_fixed(
    scenario: Scenario, cost: CostModel, token_budgets: Sequence[int] = FIXED_BUDGETS
) -> tuple[int, dict[int, ControlledRun]]:
    """The fixed budget of the most goodput in hindsight, then of the least TTFT; and all runs."""
    runs = {
        budget: play(scenario, cost, FixedBudget(budget), f"fixed {budget}")
        for budget in token_budgets
    }
    best = max(runs, key=lambda b: (runs[b].goodput_per_s, -runs[b].ttft_p99_s))
    return best, runs


def compare(
    scenario: Scenario, cost: CostModel, controllers: Mapping[str, Callable[[], Controller]],
    token_budgets: Sequence[int] = FIXED_BUDGETS,
) -> list[ControlledRun]:  # fmt: skip
    """The best fixed budget in hindsight, then each controller, newly made."""
    best, runs = best_fixed(scenario, cost, token_budgets)
    driven = [play(scenario, cost, make(), name) for name, make in controllers.items()]
    return [runs[best], *driven]


def table(runs: Sequence[ControlledRun]) -> pd.DataFrame:
    """One row per run; regret is the share of the first run's goodput that is missing."""
    import pandas as pd

    best = runs[0].goodput_per_s
    rows = [
        {
            "budget": run.name, "goodput_per_s": run.goodput_per_s,
            "regret": 1 - run.goodput_per_s / best if best else float("nan"),
            "violations": run.num_violations, "itls": run.num_itls,
            "worst_itl_s": run.worst_itl_s, "ttft_p99_s": run.ttft_p99_s,
            "prefill_tokens_per_s": run.prefill_tokens_per_s, "oscillation": run.oscillation,
        }
        for run in runs
    ]  # fmt: skip
    return pd.DataFrame(rows).set_index("budget")


# --- The scenarios ---


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a device is sent: requests per second at ordinary load, and lengths in tokens.

    chat_prompts, chat_outputs: (median, 90th percentile, least, most); long_prompts: (least,
    most) of the prompts that come in bursts, burst_size at once.
    """

    rate: float
    chat_prompts: tuple[int, int, int, int]
    chat_outputs: tuple[int, int, int, int]
    long_prompts: tuple[int, int]
    burst_size: int
    slo: Slo


# Prompts, outputs, bursts and limits that fit each device; ordinary load is about two thirds of
# what it can do.
CPU_TRAFFIC = Traffic(
    2.0, (150, 500, 16, 1000), (60, 120, 4, 200), (600, 1000), 4, Slo(ttft_s=1.5, itl_s=0.2)
)
A100_TRAFFIC = Traffic(
    5.0, (800, 2000, 16, 3500), (60, 160, 2, 250), (3000, 6000), 4, Slo(ttft_s=1.0, itl_s=0.05)
)


def scenarios(traffic: Traffic, phase_s: float = 60.0, seed: int = 0) -> list[Scenario]:
    """Load in steps, bursts of long prompts, and a device that drifts to 1.6 times its time."""
    steps_s, stationary = _stepped(traffic.rate, (0.6, 1.6, 0.8, 1.3), phase_s, seed)
    even_s, _ = _stepped(traffic.rate, (1.0,) * 4, phase_s, seed + 1)
    calm_s, _ = _stepped(traffic.rate, (0.6,) * 4, phase_s, seed + 2)
    bursts_s = np.repeat(np.arange(phase_s / 4, 4 * phase_s, phase_s / 4), traffic.burst_size)
    whole = ((0.0, 4 * phase_s),)

    def slower(busy_s: float) -> float:
        return 1 + 0.6 * min(busy_s / (2 * phase_s), 1)

    return [
        Scenario("steps", _chat(steps_s, traffic, seed), traffic.slo, stationary),
        Scenario("bursts", _with_bursts(calm_s, bursts_s, traffic, seed), traffic.slo, whole),
        Scenario("drift", _chat(even_s, traffic, seed), traffic.slo, whole, slower),
    ]


def _stepped(rate: float, factors: Sequence[float], phase_s: float, seed: int):
    """Poisson arrivals at `rate` times each factor, phase by phase; and the phases."""
    rng = np.random.default_rng(seed)
    arrivals = [
        np.sort(rng.uniform(at * phase_s, (at + 1) * phase_s, rng.poisson(rate * f * phase_s)))
        for at, f in enumerate(factors)
    ]
    phases = tuple((at * phase_s, (at + 1) * phase_s) for at in range(len(factors)))
    return np.concatenate(arrivals), phases


def _chat(arrival_s: np.ndarray, traffic: Traffic, seed: int) -> Workload:
    n = len(arrival_s)
    prompts = lognormal(n, *traffic.chat_prompts, seed=seed + 10)
    return Workload(arrival_s, prompts, lognormal(n, *traffic.chat_outputs, seed=seed + 20))


def _with_bursts(
    arrival_s: np.ndarray, bursts_s: np.ndarray, traffic: Traffic, seed: int
) -> Workload:
    chat = _chat(arrival_s, traffic, seed)
    low, high = traffic.long_prompts
    long = np.random.default_rng(seed + 30).integers(low, high + 1, len(bursts_s))
    outputs = lognormal(len(bursts_s), *traffic.chat_outputs, seed=seed + 40)
    return Workload(
        np.concatenate((chat.arrival_s, bursts_s)),
        np.concatenate((chat.num_prompt_tokens, long)),
        np.concatenate((chat.num_output_tokens, outputs)),
    )
