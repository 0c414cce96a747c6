"""TTFT, ITL and throughput over the token budget, on a simulated device, and which budgets keep
an SLO.

The simulation and the judgement are apart: a sweep is kept by its settings, so that another
SLO costs nothing. It finds a good budget for one workload; it does not search for the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from coursekit.itl import itls
from coursekit.metrics import totals, weighted_percentiles
from coursekit.simulate import simulate
from coursekit.workload import Workload, lognormal, poisson
from coursekit.workload.checks import count, positive

TOKEN_BUDGETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
NUM_REQUESTS = 100  # few, so that a sweep takes a moment; a P99 over them is their slowest

# Log-normal lengths: (median, 90th percentile, least, most) tokens of prompts and of outputs.
WORKLOADS = {
    "chat": ((1000, 2500, 16, 4000), (60, 160, 2, 250)),
    "code completion": ((1500, 3200, 64, 4000), (15, 40, 2, 80)),
    "documents": ((3000, 3800, 1000, 4000), (60, 120, 10, 200)),
}


class Point(NamedTuple):
    """What one token budget gives: seconds, and output tokens per second.

    TTFT percentiles are over requests, the ITL's over tokens.
    """

    token_budget: int
    ttft_p50_s: float
    ttft_p99_s: float
    itl_p99_s: float
    output_tokens_per_s: float


class Sweep(NamedTuple):
    """Points in order of their budgets, of how many requests and gaps, and where they are from."""

    points: tuple[Point, ...]
    num_requests: int
    num_gaps: int
    label: str
    chunked: bool = False  # the sizes are chunk sizes: the scheduler has no budget


class Verdict(NamedTuple):
    """Which budgets keep an SLO.

    feasible: those that do; only_ttft, only_itl, both: those that miss it, by what they miss.
    nearest: the budget whose worst limit is closest, and worst its ratio to that limit, over 1
    if it misses; binding: the name of that limit, "TTFT P99" or "ITL P99".
    """

    feasible: tuple[int, ...]
    only_ttft: tuple[int, ...]
    only_itl: tuple[int, ...]
    both: tuple[int, ...]
    nearest: int
    worst: float
    binding: str


def sweep(
    hardware: str = "a100",
    model: str = "llama-2-7b",
    scheduler: str = "token-budget",
    request_rate: float = 4.0,
    workload: str = "chat",
    token_budgets: Sequence[int] = TOKEN_BUDGETS,
) -> Sweep:
    """Simulate one workload at each token budget; the same settings return the same object.

    hardware, model, scheduler: names as `coursekit.simulate.simulate` takes them; the
    interleaved scheduler reads a budget as its chunk size. request_rate: Poisson arrivals per
    second; workload: a name in WORKLOADS, of which NUM_REQUESTS requests are drawn, always the
    same ones. Raises ValueError for an unknown name, a rate that is not positive, budgets that
    are not integers >= 1 in rising order, and a model that does not fit the device, or leaves
    no room there for the longest request.
    """
    budgets = tuple(count("token_budget", budget) for budget in token_budgets)
    if not budgets or list(budgets) != sorted(set(budgets)):
        raise ValueError(
            f"token_budgets must be 1 or more and rise, got {budgets}: sort them, drop repeats"
        )
    rate = positive("request_rate", request_rate, "pass requests per second")
    if workload not in WORKLOADS:
        raise ValueError(f"unknown workload {workload!r}; known: {', '.join(WORKLOADS)}")
    return _sweep(hardware, model, scheduler, rate, workload, budgets)


@lru_cache(maxsize=256)
def _sweep(hardware, model, scheduler, request_rate, workload, token_budgets) -> Sweep:
    requests = _draw_requests(workload, request_rate)
    points = []
    for budget in token_budgets:
        trace = simulate(requests, scheduler, hardware, model, budget)
        gaps_s, weights = itls(trace)
        ttft_s = trace.requests["first_token_s"] - trace.requests["arrival_s"]
        p50_s, p99_s = np.percentile(ttft_s, (50, 99))
        (itl_s,) = weighted_percentiles(gaps_s, weights, (99,))
        rate = totals(trace)["output_tokens_per_s"]
        points.append(Point(budget, float(p50_s), float(p99_s), float(itl_s), rate))
    chunked = scheduler == "interleaved"
    return Sweep(tuple(points), len(requests), int(weights.sum()), trace.label, chunked)


@lru_cache(maxsize=64)
def _draw_requests(workload: str, request_rate: float) -> Workload:
    prompts, outputs = WORKLOADS[workload]
    return Workload(
        poisson(request_rate, NUM_REQUESTS, seed=1),
        lognormal(NUM_REQUESTS, *prompts, seed=2),
        lognormal(NUM_REQUESTS, *outputs, seed=3),
    )


def judge(points: Sequence[Point], ttft_slo_s: float, itl_slo_s: float) -> Verdict:
    """Which of `points` keep TTFT P99 <= ttft_slo_s and ITL P99 <= itl_slo_s, in seconds.

    Raises ValueError for an SLO that is not > 0, or without points.
    """
    for name, limit in (("ttft_slo_s", ttft_slo_s), ("itl_slo_s", itl_slo_s)):
        positive(name, limit, "pass seconds")
    if not points:
        raise ValueError("a verdict needs at least 1 point, got 0: sweep some token budgets")
    ratios = {p.token_budget: (p.ttft_p99_s / ttft_slo_s, p.itl_p99_s / itl_slo_s) for p in points}
    groups = {(False, False): [], (True, False): [], (False, True): [], (True, True): []}
    for budget, (ttft, itl) in ratios.items():
        groups[ttft > 1, itl > 1].append(budget)
    nearest = min(ratios, key=lambda budget: max(ratios[budget]))
    ttft, itl = ratios[nearest]
    binding = "TTFT P99" if ttft >= itl else "ITL P99"
    return Verdict(*(tuple(group) for group in groups.values()), nearest, max(ttft, itl), binding)
