"""Random workloads and settings for every policy."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import (
    DecodeFirst,
    InterleavedPrefillDecodeScheduler,
    OrcaMixed,
    PrefillFirst,
    PriorityAwareChunking,
    PriorityTokenBudget,
    Scheduler,
    StallFree,
    TokenBudget,
)
from tests.schedulers.checker import Arrival

CLASSES = ("high", "medium", "low")
LONGEST = 40 + 12  # of a request, prompt and output

arrivals = st.builds(
    Arrival,
    step=st.integers(0, 12),
    num_prompt_tokens=st.integers(1, 40),
    max_tokens=st.integers(1, 12),
    priority=st.integers(-1, 2),
    priority_class=st.sampled_from(CLASSES),
)
workloads = st.lists(arrivals, min_size=1, max_size=14).map(sorted)


@st.composite
def kv_sizes(draw) -> tuple[int, int]:
    """num_blocks and block_size: any request fits alone, often not many at once."""
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    least = -(-LONGEST // block_size)
    return draw(st.integers(least, 4 * least)), block_size


@st.composite
def class_settings(draw) -> dict:
    """Chunk sizes, shares and ageing of `PriorityAwareChunking`."""
    return {
        "priority_chunk_sizes": {name: draw(st.integers(1, 50)) for name in CLASSES},
        "shares": {name: draw(st.integers(1, 8)) for name in CLASSES},
        "ageing_iterations": draw(st.integers(1, 10)),
    }


budgets = st.integers(1, 60)
_seats = {"max_num_seqs": st.integers(1, 10)}
_common = {"token_budget": budgets, **_seats}
_vllm = {
    **_common,
    "long_prefill_token_threshold": st.sampled_from([0, 1, 7]),
    "reserve_full_isl": st.booleans(),
}


def _options(**strategies: st.SearchStrategy) -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(strategies)


@st.composite
def _tiled(draw) -> dict:
    options = draw(_options(**_common))
    return {**options, "tile_size": draw(st.integers(1, options["token_budget"]))}


OPTIONS: dict[type[Scheduler], st.SearchStrategy[dict]] = {
    PrefillFirst: _options(**_common),
    DecodeFirst: _options(**_common),
    OrcaMixed: _options(**_common),
    StallFree: _tiled(),
    TokenBudget: _options(**_vllm),
    PriorityTokenBudget: _options(**_vllm),
    InterleavedPrefillDecodeScheduler: _options(chunk_size=budgets, **_seats),
    PriorityAwareChunking: st.builds(
        lambda common, own: {**common, **own}, _options(**_common), class_settings()
    ),
}


@st.composite
def makers(draw, policy: type[Scheduler]) -> Callable[[], Scheduler]:
    """A function that makes a scheduler of this policy with drawn settings, new each time."""
    options, (num_blocks, block_size) = draw(OPTIONS[policy]), draw(kv_sizes())
    return lambda: policy(**options, kv=BlockCounter(num_blocks, block_size))
