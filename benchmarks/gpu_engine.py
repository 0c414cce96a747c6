"""The torch engine on a GPU, each figure beside a ceiling measured in the same run.

Part of `live_engine.py`. Without a GPU its rows say "not yet measured". The `llama-2-7b` shape
has random weights, and a longer context than the original's, for the prompt of 8K tokens.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch
from record import Row

PROMPT, CHUNKS = 8192, {512: 1.25, 2048: 1.08}
DECODES, CONTEXT, STEPS = (1, 32), 1024, 30
BANDWIDTH_TARGET, MATRIX_TARGET = 0.8, 0.6
COPY_BYTES = 2**32


def rows() -> list[Row]:
    """What is asked of the engine on a GPU; measured where there is one."""
    found = measure() if torch.cuda.is_available() else {}
    made = []
    for count in DECODES:
        bytes_per_s, ceiling = found.get(f"decode {count}", (None, None))
        made.append(Row(
            f"GPU, llama-2-7b, decode at batch {count}: bytes read over time, beside a copy",
            bytes_per_s, ceiling, "B/s", f">= {BANDWIDTH_TARGET} of it",
            None if ceiling is None else bytes_per_s >= BANDWIDTH_TARGET * ceiling,
        ))  # fmt: skip
    flop_per_s, ceiling = found.get("prefill", (None, None))
    made.append(Row(
        f"GPU, llama-2-7b, prompt of {PROMPT} in one shot: FLOP/s, beside large matrices",
        flop_per_s, ceiling, "FLOP/s", f">= {MATRIX_TARGET} of it",
        None if ceiling is None else flop_per_s >= MATRIX_TARGET * ceiling,
    ))  # fmt: skip
    for chunk, most in CHUNKS.items():
        seconds, whole_s = found.get(f"chunks of {chunk}", (None, None))
        made.append(Row(
            f"GPU, llama-2-7b, prompt of {PROMPT} in chunks of {chunk}, beside one shot",
            seconds, whole_s, "s", f"<= {most} times",
            None if seconds is None else seconds <= most * whole_s,
        ))  # fmt: skip
    return made


def measure(
    shape: str = "llama-2-7b", device: str = "cuda", prompt_length: int = PROMPT,
    copy_bytes: int = COPY_BYTES,
) -> dict[str, tuple[float, float]]:  # fmt: skip
    """What -> (the engine's figure, the ceiling or the one-shot time beside it)."""
    from coursekit.analyzers.ceilings import measure_ceilings
    from coursekit.cost.arithmetic import chunk_work
    from coursekit.models import SHAPES, build_model

    config = replace(SHAPES[shape], max_position_embeddings=2 * prompt_length)
    dtype = torch.bfloat16
    flop_ceiling = measure_ceilings(device, dtype).flop_per_s
    copy_ceiling = copy_bytes_per_s(device, copy_bytes)
    model, found = build_model(config, dtype, device), {}
    for count in DECODES:
        seconds, context = decode_step_s(model, count)
        one = chunk_work(config, 1, context)
        found[f"decode {count}"] = (one.weight_bytes + count * one.kv_bytes) / seconds, copy_ceiling
    whole_s = prefill_s(model, prompt_length, prompt_length)
    work = chunk_work(config, prompt_length)
    found["prefill"] = work.flop / whole_s, flop_ceiling
    for chunk in CHUNKS:
        found[f"chunks of {chunk}"] = prefill_s(model, prompt_length, chunk), whole_s
    return found


def decode_step_s(model, count: int) -> tuple[float, int]:
    """Median step of `count` decodes, seconds, and the context in the middle of the steps."""
    from coursekit.live import TorchEngine
    from coursekit.schedulers import TokenBudget

    engine = TorchEngine(model, TokenBudget(2048, count), CONTEXT + 4 * STEPS)
    engine.executor.warm_up()
    waiting = {engine.submit(CONTEXT, 3 * STEPS) for _ in range(count)}
    while waiting:
        waiting.difference_update(engine.step().tokens)
    times = [engine.step().duration_s for _ in range(2 * STEPS)][STEPS:]
    engine.close()
    return statistics.median(times), CONTEXT + STEPS + STEPS // 2


def prefill_s(model, prompt_length: int, chunk: int) -> float:
    """Median of three prefills alone, in chunks, from submission to first token, seconds."""
    from coursekit.live import TorchEngine
    from coursekit.schedulers import TokenBudget

    engine = TorchEngine(model, TokenBudget(chunk, 1), prompt_length + 1)
    times = []
    for _ in range(4):
        engine.submit(prompt_length, 1)
        began = time.perf_counter()
        while engine.has_requests:
            engine.step()
        times.append(time.perf_counter() - began)
    engine.close()
    return statistics.median(times[1:])


def copy_bytes_per_s(device: str, size: int) -> float:
    """Bytes read and written per second by the best of several large copies."""
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(8):
        began = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() * source.itemsize / best
