"""The module's question in its simplest form: one long prompt, how large may its chunks be?

The module answered from two constants; here the standing scene is played on a cost model: some
streams decode, the prompt arrives, and its chunks ride along with them. Source of the names:
the course module, section 3.1 (its `max_blocking_time_ms` held seconds).
"""

from __future__ import annotations

from collections.abc import Sequence

from coursekit.analyzers.scene import chunks_needed, play_scene
from coursekit.cost.base import CostModel
from coursekit.optimizers.answer import Answer, decide
from coursekit.optimizers.chunk_size import CHUNK_SIZES, check_sizes
from coursekit.optimizers.objective import RunSlo, max_blocking_time_s
from coursekit.workload.checks import count

NUM_STREAMS = 4


def measure_chunk_performance(
    chunk_size: int,
    prompt_length: int,
    cost: CostModel | None = None,
    num_streams: int = NUM_STREAMS,
) -> dict[str, float]:
    """A prompt in chunks of `chunk_size` tokens beside `num_streams` decoding requests.

    cost: Llama 2 7B on an A100, by the roofline, if None. Returns chunk_size, num_chunks,
    total_time_s (the prompt's TTFT), overhead_fraction (the share of it that one chunk would
    have saved), max_blocking_time_s, and tokens_per_s of the prompt.
    Raises ValueError for a size < 1, and for more chunks than the scene plays.
    """
    sizes = {"chunk_size": chunk_size, "prompt_length": prompt_length, "num_streams": num_streams}
    for name, value in sizes.items():
        count(name, value)
    cost = cost or _default_cost()
    run = _play(cost, chunk_size, prompt_length, num_streams)
    whole = run if chunk_size >= prompt_length else _play(
        cost, prompt_length, prompt_length, num_streams
    )  # fmt: skip
    return {
        "chunk_size": chunk_size,
        "num_chunks": chunks_needed(chunk_size + num_streams, num_streams, prompt_length),
        "total_time_s": run.ttft_s,
        "overhead_fraction": 1 - whole.ttft_s / run.ttft_s,
        "max_blocking_time_s": max_blocking_time_s(run.trace, cost),
        "tokens_per_s": prompt_length / run.ttft_s,
    }


def find_optimal_chunk_size(
    prompt_length: int,
    max_blocking_time_s: float = 0.050,
    cost: CostModel | None = None,
    chunk_sizes: Sequence[int] = CHUNK_SIZES,
    num_streams: int = NUM_STREAMS,
) -> Answer:
    """The chunk size that serves a prompt fastest and blocks no decode longer than allowed.

    `find_optimal_chunk_size(8000, 0.030).chosen` is the size, or None if all of `chunk_sizes`
    block longer; the answer then says how long the best of them does. Arguments as for
    `measure_chunk_performance`. Raises ValueError for what is not > 0, or out of order.
    """
    import pandas as pd

    sizes, slo = check_sizes(chunk_sizes), RunSlo(max_blocking_time_s=max_blocking_time_s)
    cost = cost or _default_cost()
    rows = [measure_chunk_performance(size, prompt_length, cost, num_streams) for size in sizes]
    table = pd.DataFrame(rows).set_index("chunk_size")
    table.insert(0, "value", table["tokens_per_s"])
    table.insert(1, "feasible", table["max_blocking_time_s"] <= max_blocking_time_s)
    return decide(table, "chunk_size", "throughput", slo, cost.label)


def _play(cost: CostModel, chunk_size: int, prompt_length: int, num_streams: int):
    # the budget of an iteration: the chunk, and a token for each stream
    return play_scene(cost, "token-budget", chunk_size + num_streams, num_streams, prompt_length)


def _default_cost() -> CostModel:
    from coursekit.cost import RooflineCost

    return RooflineCost("a100", "llama-2-7b")
