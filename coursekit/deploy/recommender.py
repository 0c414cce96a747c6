"""The settings for a workload, an SLO, a device and a model, found by the optimizer in simulation.

Nothing is picked by rule of thumb that can be simulated, and every number says what decided it. Where no
setting keeps the SLO there is no configuration, but the nearest SLO that one would keep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import NamedTuple

import pandas as pd

from coursekit.deploy.recommendation import Recommendation, nearest
from coursekit.deploy.settings import ChunkedPrefillConfig, Setting
from coursekit.deploy.site import BLOCK_SIZE, Site, mean_length, site_of
from coursekit.optimizers import Answer, ChunkSizeOptimizer, RunSlo
from coursekit.optimizers.answer import decide
from coursekit.optimizers.chunk_size import CHUNK_SIZES, check_sizes
from coursekit.optimizers.explain import say_value
from coursekit.optimizers.simulated import CAPPED, Simulation
from coursekit.workload import Workload

MOST_SEQS = 256  # vLLM's default on most devices (vllm/engine/arg_utils.py, get_batch_defaults)
WORTH = 0.01  # a cap on one request's tokens has to bring so much more to be set
ADAPTER = "coursekit.deploy.vllm_scheduler.CoursekitScheduler"
# What runs inside vLLM without passing its budget: vLLM's own two policies and two of ours.
SCHEDULERS = ("token-budget", "priority-token-budget", "stall-free", "priority-aware")


def recommend(
    workload: Workload,
    slo: RunSlo,
    device: str = "a100",
    model: str = "llama-2-7b",
    *,
    scheduler: str = "token-budget",
    objective: str = "throughput",
    token_budgets: Sequence[int] | None = None,
    num_blocks: int | None = None,
    executor: Executor | None = None,
) -> Recommendation:
    """The configuration that gives the most of `objective` while `slo` holds.

    The budget is sought first, then a cap on one request under it; where no budget keeps the SLO, caps
    under each of them.

    device: a name of `coursekit.cost.DEVICES`, of which a roofline is simulated, or of a recorded profile
    (`coursekit.cost.profiles()`); model: a name of SHAPES, the profile's if it is one. scheduler: a name
    in SCHEDULERS. objective, executor: as for `ChunkSizeOptimizer.optimize`; token_budgets: to try.
    num_blocks: KV blocks of 16 tokens; what fits the device's memory if None, or 2 GiB for a profile.
    Raises ValueError for unknown names and for a request that the model or the KV cache can't hold.
    """
    if scheduler not in SCHEDULERS:
        raise ValueError(
            f"scheduler must be one of {', '.join(SCHEDULERS)}, which keep to a budget inside vLLM, "
            f"got {scheduler!r}"
        )
    site = site_of(device, model, num_blocks)
    mean = mean_length(workload, site)
    case = _Case(site, workload, slo, scheduler, objective, executor)
    fits = max(1, int(site.num_kv_tokens // mean))
    most = min(fits, MOST_SEQS)
    answer = _over_budgets(case, token_budgets, most)
    budgets = answer.table.index if answer.chosen is None else [answer.chosen]
    caps = [found for size in budgets if (found := _over_caps(case, int(size), most)) is not None]
    capped = max(caps, key=lambda found: found.value if found.feasible else -math.inf, default=None)
    budget = answer.chosen
    if budget is None and capped is not None and capped.feasible:
        budget = int(capped.table.index[-1])
    if budget is None:
        return Recommendation(None, answer, None, None, nearest([answer, *caps]))
    seats, cap = min(most, budget), _cap_setting(answer, capped)
    num_preemptions = _count_preemptions(case, budget, seats, cap.value)
    why = _why_seats(site, fits, seats, mean, num_preemptions)
    settings = (
        _CHUNKED,
        Setting("max_num_batched_tokens", budget, _why_budget(answer, budget, capped), answer.label),
        Setting("max_num_seqs", seats, why, site.kv_source), cap, _longest(site),
        *_policy_settings(scheduler, budget),
    )  # fmt: skip
    rationale = _rationale(case, device, answer)
    config = ChunkedPrefillConfig("recommended", model, settings, rationale)
    return Recommendation(config, answer, capped, num_preemptions, None)


class _Case(NamedTuple):
    """What is asked for, without the numbers that are sought."""

    site: Site
    workload: Workload
    slo: RunSlo
    scheduler: str
    objective: str
    executor: Executor | None

    def answer(self, sizes: Sequence[int] | None, seats: int, **knob) -> Answer:
        """The optimizer's, with so many requests at once."""
        optimizer = ChunkSizeOptimizer(
            self.site.cost, self.workload, sizes, scheduler=self.scheduler, max_num_seqs=seats,
            num_blocks=self.site.num_blocks, block_size=BLOCK_SIZE, **knob,
        )  # fmt: skip
        return optimizer.optimize(self.slo, self.objective, executor=self.executor)


def _rationale(case: _Case, device: str, answer: Answer) -> str:
    extrapolated = getattr(case.site.cost, "extrapolated", False)
    beyond = ", some of it extrapolated beyond what was measured" if extrapolated else ""
    return (
        f"Most {case.objective} under the SLO on {device} with {case.scheduler}: "
        f"{answer.label}{beyond}."
    )


def _over_budgets(case: _Case, sizes: Sequence[int] | None, most: int) -> Answer:
    """The answer on the budget, without a cap, `most` requests running at once.

    vLLM refuses fewer tokens than requests, so a budget under `most` is simulated with as many
    requests as it has tokens.
    """
    sizes = check_sizes(CHUNK_SIZES if sizes is None else sizes)
    enough = [size for size in sizes if size >= most]
    groups = [([size], size) for size in sizes if size < most] + [(enough, most)] * bool(enough)
    answers = [case.answer(group, seats) for group, seats in groups]
    table = pd.concat([answer.table for answer in answers]).drop(columns="pareto")
    return decide(table, answers[0].knob, case.objective, case.slo, case.site.cost.label)


def _over_caps(case: _Case, budget: int, most: int) -> Answer | None:
    """The answer on long_prefill_token_threshold under a budget; None if there is nothing to cap.

    Its last row is that of no cap, as large as the budget.
    """
    sizes = sorted({budget // 4, budget // 2, 3 * budget // 4, budget} - {0})
    if case.scheduler not in CAPPED or len(sizes) == 1:
        return None
    seats = min(most, budget)
    return case.answer(sizes, seats, knob="chunk_size", token_budget=budget)


def _why_budget(answer: Answer, budget: int, capped: Answer | None) -> str:
    """The optimizer's explanation; and, where the sizes hardly differ, that the load is why."""
    if answer.chosen is None:
        return f"{answer.explain()} With a cap on one request, {capped.chosen:,}, {budget:,} keeps it."
    kept = answer.table["value"][answer.table["feasible"]]
    if answer.objective == "capacity" or len(kept) == 1 or kept.min() < kept.max() * (1 - WORTH):
        return answer.explain()
    return (
        f"{answer.explain()} All that keep the SLO are within {100 * WORTH:.0f}%: the arrivals are the "
        "limit, not the budget. A higher rate, or the objective capacity with limits on TTFT and "
        "ITL, tells them apart."
    )


def _cap_setting(answer: Answer, capped: Answer | None) -> Setting:
    name = "long_prefill_token_threshold"
    if capped is None:
        return Setting(name, 0, "the policy knows no cap on one request", "coursekit.schedulers")
    given = say_value(capped.objective, capped.value)
    if answer.chosen is None:
        reason = f"without a cap no budget keeps the SLO; with it {given}: {capped.explain()}"
        return Setting(name, capped.chosen, reason, capped.label)
    if capped.chosen == answer.chosen or capped.value <= answer.value * (1 + WORTH):
        reason = (
            f"no cap: the best of {', '.join(map(str, capped.table.index[:-1]))} gives "
            f"{say_value(capped.objective, _best_cap(capped))}, without one it is "
            f"{say_value(answer.objective, answer.value)}"
        )
        return Setting(name, 0, reason, capped.label)
    reason = f"{given} instead of {say_value(answer.objective, answer.value)} without a cap"
    return Setting(name, capped.chosen, reason, capped.label)


def _best_cap(capped: Answer) -> float:
    """The most that a cap below the budget gives while the SLO holds; 0 if none keeps it."""
    below = capped.table.iloc[:-1]
    return float(below["value"][below["feasible"]].max()) if below["feasible"].any() else 0.0


def _count_preemptions(case: _Case, budget: int, seats: int, cap: int) -> int:
    knob = "chunk_size" if cap else "token_budget"
    simulation = Simulation(
        case.site.cost, case.scheduler, knob, budget, seats, case.site.num_blocks, BLOCK_SIZE
    )
    trace = simulation.run(case.workload, cap or budget)
    return int(trace.requests["num_preemptions"].sum())


def _why_seats(site: Site, fits: int, seats: int, mean: float, num_preemptions: int) -> str:
    kept = f"{num_preemptions:,} preemptions as the workload is simulated at its own rate"
    held = (
        f"the KV cache holds {site.num_kv_tokens:,} tokens, {fits:,} requests of the mean length "
        f"{mean:,.0f} to their end"
    )
    if seats == fits:
        return f"{held}; {kept}"
    if seats == MOST_SEQS:
        return f"{held}; vLLM's default of {MOST_SEQS} is less; {kept}"
    return f"{held}; no more than the budget has tokens, which vLLM demands; {kept}"


_CHUNKED = Setting(
    "enable_chunked_prefill", True, "the budget splits prompts; without it none is split",
    "vLLM, vllm/config/scheduler.py",
)  # fmt: skip


def _longest(site: Site) -> Setting:
    reason, source = "the model's context length", f"config.json of {site.shape.name}"
    if site.longest < site.shape.max_position_embeddings:
        reason = "what the KV cache holds, less than the model's context: vLLM would not start"
        source = site.kv_source
    return Setting("max_model_len", site.longest, reason, source)


def _policy_settings(scheduler: str, budget: int) -> tuple[Setting, ...]:
    """What vLLM needs for a policy, and whether it may cache prefixes."""
    if scheduler in CAPPED:
        caching = Setting(
            "enable_prefix_caching", True, "hits were not simulated; they can only save work",
            "vLLM, vllm/v1/core/kv_cache_utils.py",
        )  # fmt: skip
        if scheduler == "token-budget":
            return (caching,)
        policy = Setting(
            "scheduling_policy", "priority", "requests go by their priority, as simulated",
            "vLLM, vllm/config/scheduler.py, policy",
        )  # fmt: skip
        return policy, caching
    where = "coursekit/deploy/vllm_scheduler.py"
    options = {"coursekit": {"scheduler": scheduler, "token_budget": budget}}
    return (
        Setting("scheduler_cls", ADAPTER, f"{scheduler} is ours; it decides inside vLLM", where),
        Setting("additional_config", options, "what the adapter is told", where),
        Setting("async_scheduling", False, "the adapter decides one step at a time", where),
        Setting("enable_prefix_caching", False, "the adapter counts blocks without it", where),
    )
