"""What the numbers of the presets give beside others: `coursekit.deploy.presets` cites these rows.

    python benchmarks/presets.py

Simulated on a roofline of an A100 with Llama-3.1 8B, 600 requests, three draws, of which the median
counts. mixed: the module's documents, questions and paragraphs (section 4.1), 2.5 a second.
documents: half are documents (arxiv_summarization's lengths in Sarathi-Serve), half short questions,
2 a second. batch: lengths of the Azure conversation trace, all there at the start.

The presets were chosen among some thirty settings on a draw of these workloads that is not among the
three here, and the targets after that: what the presets' reasons say, in numbers.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
from record import Row, publish

from coursekit.cost import RooflineCost
from coursekit.deploy.presets import PRESETS
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.metrics import totals
from coursekit.optimizers.objective import RunSlo, row_of
from coursekit.schedulers import TokenBudget
from coursekit.simulate import num_blocks_that_fit
from coursekit.trace import Trace
from coursekit.workload import Workload, lognormal, module_mix, poisson

NUM_REQUESTS, SEEDS = 600, (11, 50, 100)
DEVICE, MODEL, BLOCK_SIZE = "a100", "llama-3.1-8b", 16
SHORT = 700  # prompts of at least so many tokens are long


def mixed(seed: int) -> Workload:
    return Workload(poisson(2.5, NUM_REQUESTS, seed), *module_mix(NUM_REQUESTS, seed))


def documents(seed: int) -> Workload:
    n, is_short = NUM_REQUESTS, np.random.default_rng(seed).random(NUM_REQUESTS) < 0.5
    long, short = lognormal(n, 7059, 12985, SHORT, 15000, seed), lognormal(n, 60, 200, 8, 600, seed)
    outputs = lognormal(n, 208, 371, 8, 1000, seed + 1)
    return Workload(poisson(2, n, seed), np.where(is_short, short, long), outputs)


def batch(seed: int) -> Workload:
    n = NUM_REQUESTS
    prompts, outputs = lognormal(n, 1020, 2735, 16, 6900, seed), lognormal(n, 129, 424, 4, 1200, seed + 1)
    return Workload(np.zeros(n), prompts, outputs)


def run(workload: Workload, budget: int, max_num_seqs: int, threshold: int) -> Trace:
    kv = BlockCounter(num_blocks_that_fit(DEVICE, MODEL, BLOCK_SIZE), BLOCK_SIZE)
    policy = TokenBudget(
        token_budget=budget, max_num_seqs=max_num_seqs, kv=kv,
        long_prefill_token_threshold=threshold,
    )  # fmt: skip
    return Engine(policy, SimulatedExecutor(RooflineCost(DEVICE, MODEL))).run(workload.source())


def ttft_p50_s(trace: Trace) -> float:
    return float(np.median(trace.requests["first_token_s"] - trace.requests["arrival_s"]))


def long_ttft_p50_s(trace: Trace) -> float:
    requests = trace.requests
    ttft_s = requests["first_token_s"] - requests["arrival_s"]
    return float(np.median(ttft_s[requests["num_prompt_tokens"] >= SHORT]))


def itl_p99_s(trace: Trace) -> float:
    return row_of(trace, RunSlo(itl_s=1))["itl_p99_s"]


def throughput(trace: Trace) -> float:
    return totals(trace)["tokens_per_s"]


def row(
    what: str, load: Callable, preset: str, metric: Callable, beside: dict[str, int], target: str,
    unit: str = "s", note: str = "", changed: dict[str, int] | None = None,
) -> Row:  # fmt: skip
    """A preset's numbers, `changed` if given, beside the same with others. target: "< 0.5", of the ratio."""
    settings = PRESETS[preset]
    numbers = {
        "budget": settings.budget.value, "max_num_seqs": settings.max_num_seqs.value,
        "threshold": settings.threshold.value,
    }  # fmt: skip
    ours, theirs = (
        statistics.median(metric(run(load(seed), **(numbers | other))) for seed in SEEDS)
        for other in (changed or {}, beside)
    )
    sign, limit = target.split()
    holds = ours / theirs < float(limit) if sign == "<" else ours / theirs > float(limit)
    return Row(what, ours, theirs, unit, f"{sign} {limit} times", holds, note)


def main() -> None:
    chat, long, offline = "mixed_interactive", "long_context_qa", "batch_processing"
    rows = [
        row("mixed: ITL P99, budget 512 beside 2048", mixed, chat, itl_p99_s, {"budget": 2048},
            "< 0.3334"),
        row("mixed: TTFT P50, threshold 384 beside none", mixed, chat, ttft_p50_s, {"threshold": 0},
            "< 0.5"),
        row("mixed: TTFT P50 of the long prompts, threshold 384 beside none", mixed, chat,
            long_ttft_p50_s, {"threshold": 0}, "< 1.5", note="the price"),
        row("documents: TTFT P50 of the documents, budget 1024 beside 512", documents, long,
            long_ttft_p50_s, {"budget": 512}, "< 1"),
        row("documents: ITL P99, budget 1024 beside 2048", documents, long, itl_p99_s,
            {"budget": 2048}, "< 0.6"),
        row("documents: TTFT P50 of the documents, threshold 768 beside none", documents, long,
            long_ttft_p50_s, {}, "> 1", changed={"threshold": 768}, note="why there is no cap"),
    ]  # fmt: skip
    for what, beside, limit in (
        ("budget 4096 beside 512", {"budget": 512}, "> 1"),
        ("budget 4096 beside 2048", {"budget": 2048}, "> 0.99"),
        ("budget 4096 beside 8192", {"budget": 8192}, "> 0.99"),
        ("256 sequences beside 128", {"max_num_seqs": 128}, "> 1"),
    ):
        name = f"batch: throughput, {what}"
        rows.append(row(name, batch, offline, throughput, beside, limit, "tok/s"))
    publish("presets", "python benchmarks/presets.py", rows)


if __name__ == "__main__":
    main()
