"""What a cost model says of a server as it was seen: a full iteration, a budget that holds.

The worst usual iteration is taken: as many decodes as run on average, with their contexts, and a
chunk that fills the budget at the end of a long prompt (P95), where attention costs most.
"""

from __future__ import annotations

import copy
import warnings
from math import ceil, floor, isnan, nan
from typing import NamedTuple

from coursekit.chunking.adaptive.cost_inverse import largest
from coursekit.cost.base import CostModel
from coursekit.monitor.reading import Reading


class Work(NamedTuple):
    """Decodes of an iteration, the tokens they attend to together, and those before the chunk."""

    num_decodes: int
    decode_context: int
    chunk_context: int


def work_of(reading: Reading) -> Work | None:
    """The worst usual iteration of a reading; None if requests or their lengths were not seen."""
    if isnan(reading.num_running) or not reading.prompt_length.n:
        return None
    num_decodes = max(1, ceil(reading.num_running))
    output = reading.output_length.mean if reading.output_length.n else 0.0
    context = num_decodes * (reading.prompt_length.mean + output / 2)
    if not isnan(reading.num_kv_tokens) and not isnan(reading.kv_usage):
        context = min(context, reading.kv_usage * reading.num_kv_tokens)
    return Work(num_decodes, ceil(context), round(reading.prompt_length.p95.value))


def full_share(reading: Reading, token_budget: int | None) -> float:
    """Least share of iterations that prefill tokens filled to the budget; nan if unknown.

    The prefill tokens that were computed, over the most that fit beside the running decodes, over
    the iterations that were counted. Chunks that were not full make it more.
    """
    if token_budget is None or not reading.iteration_tokens.n:
        return nan
    decodes = 0.0 if isnan(reading.num_running) else reading.num_running
    full = reading.num_prefill_tokens / max(1.0, token_budget - decodes)
    return min(1.0, full / reading.iteration_tokens.n) if not isnan(full) else nan


def full_iteration_s(cost: CostModel, work: Work, token_budget: int) -> tuple[float, str]:
    """Seconds of an iteration that fills `token_budget`, and what that is from, in words."""
    cost = copy.copy(cost)  # a calibrated one remembers whether it was extrapolated
    if hasattr(cost, "extrapolated"):
        cost.extrapolated = False
    seconds = _iteration_s(cost, work, token_budget)
    extrapolated = getattr(cost, "extrapolated", False)
    beyond = ", extrapolated beyond what was measured" if extrapolated else ""
    return seconds, (
        f"{cost.label}{beyond}: {work.num_decodes} decodes with {work.decode_context:,} tokens of "
        f"context, and a chunk behind {work.chunk_context:,}"
    )


def budget_that_holds(cost: CostModel, work: Work, itl_s: float, most: int) -> int | None:
    """The largest budget up to `most` whose full iteration takes at most `itl_s`; None: none does.

    A budget leaves at least one token beside the decodes.
    """
    cost, least = copy.copy(cost), work.num_decodes + 1

    def holds(token_budget: int) -> bool:
        return _iteration_s(cost, work, token_budget) <= itl_s

    if most < least or not holds(least):
        return None
    return largest(holds, least, most)


def seats_that_fit(reading: Reading) -> tuple[int | None, str]:
    """Requests of mean length that the KV cache holds to their end, and how that was counted."""
    lengths = reading.prompt_length, reading.output_length
    if isnan(reading.num_kv_tokens) or not all(length.n for length in lengths):
        return None, "the rule alone: the size of the KV cache or of the requests was not seen"
    tokens = sum(length.mean for length in lengths)
    return max(1, floor(reading.num_kv_tokens / tokens)), (
        f"counted: {reading.num_kv_tokens:,.0f} KV tokens, a request has {tokens:,.0f} (mean)"
    )


def _iteration_s(cost: CostModel, work: Work, token_budget: int) -> float:
    chunk = token_budget - work.num_decodes
    chunks = [(None, chunk, work.chunk_context)] if chunk > 0 else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the source says so where it matters
        return cost.iteration_s(work.num_decodes, work.decode_context, chunks)
