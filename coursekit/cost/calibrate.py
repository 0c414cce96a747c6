"""Measuring a live model's iterations, to fit a `CalibratedCost` to them.

Batches are drawn so that what the fit must tell apart varies independently: decodes and their
contexts, chunks and theirs. They are measured in rounds, not one after another to the end, so
that a machine that slows down for a while spoils a little of each and not all of one.
"""

from __future__ import annotations

import platform
import time
from datetime import date
from statistics import median

import numpy as np
import torch

from coursekit.cost.calibrated import MIN_BATCHES, CalibratedCost, MeasuredIteration
from coursekit.device import detect_device
from coursekit.models.decoder import Chunk, Decoder

Batch = tuple[list[int], list[tuple[int, int]]]  # contexts of decodes; (tokens, context) of chunks


def calibrate_model(model: Decoder, **settings) -> CalibratedCost:
    """Measure `model` where it is and fit a cost to it; settings as for `measure_batches`."""
    measured = measure_batches(model, **settings)
    return CalibratedCost.fit(
        measured,
        model=f"{model.config.name}, {str(model.dtype).removeprefix('torch.')}",
        device=detect_device(model.device.type).label(),
        date=date.today().isoformat(),
        software={"torch": torch.__version__, "python": platform.python_version()},
    )


def measure_batches(
    model: Decoder,
    num_batches: int = 40,
    max_chunk_tokens: int = 512,
    max_context: int = 1024,
    max_decodes: int = 8,
    rounds: int = 3,
    seconds: float = 40.0,
    seed: int = 0,
) -> list[MeasuredIteration]:
    """Time `num_batches` iterations of `model`, each the median of up to `rounds` runs.

    A third of the batches are decodes alone, a third a chunk alone, a third both. The first
    round runs whole; another starts only if it should end within `seconds` of the start.
    Contexts are made up, not computed: attention takes as long either way.
    Raises ValueError for a limit that is too small or does not fit the model's context.
    """
    _check(model, num_batches, max_chunk_tokens, max_context, max_decodes, rounds)
    generator = np.random.default_rng(seed)
    batches = draw_batches(num_batches, max_chunk_tokens, max_context, max_decodes, generator)
    caches = [model.new_cache(max_context + 1) for _ in range(max_decodes)]
    caches.append(model.new_cache(max_context + max_chunk_tokens))
    for batch in batches[:3]:  # the first runs pay for memory and code paths
        _time_s(model, caches, batch)
    began = time.perf_counter()
    times: list[list[float]] = [[] for _ in batches]
    for done in range(rounds):
        if done and (time.perf_counter() - began) * (done + 1) / done > seconds:
            break
        for index in generator.permutation(num_batches):
            times[index].append(_time_s(model, caches, batches[index]))
    return [_measured(batch, median(took)) for batch, took in zip(batches, times, strict=True)]


def draw_batches(
    num_batches: int, max_chunk_tokens: int, max_context: int, max_decodes: int, generator
) -> list[Batch]:
    """Batches with sizes spread evenly over their logarithm, contexts evenly.

    The first three reach every limit, so that the calibrated range is the one asked for.
    """
    batches: list[Batch] = [
        ([max_context] * max_decodes, []),
        ([], [(max_chunk_tokens, max_context)]),
        ([max_context] * max_decodes, [(max_chunk_tokens, max_context)]),
        ([1], []),
    ]
    for index in range(len(batches), num_batches):
        num_decodes = _log_uniform(generator, 1, max_decodes) if index % 3 != 1 else 0
        # contexts of one batch share a bound, so that their sum varies apart from their number
        bound = int(generator.integers(1, max_context + 1))
        contexts = generator.integers(1, bound + 1, num_decodes).tolist()
        size = _log_uniform(generator, min(16, max_chunk_tokens), max_chunk_tokens)
        context = int(generator.integers(0, max_context + 1)) * int(generator.integers(0, 2))
        batches.append((contexts, [(size, context)] if index % 3 else []))
    return batches


def _log_uniform(generator, low: int, high: int) -> int:
    return int(np.exp(generator.uniform(np.log(low), np.log(high + 1))))


def _measured(batch: Batch, seconds: float) -> MeasuredIteration:
    contexts, chunks = batch
    chunks = [(None, size, context) for size, context in chunks]
    return MeasuredIteration(len(contexts), sum(contexts), chunks, seconds)


def _time_s(model: Decoder, caches: list, batch: Batch) -> float:
    """Seconds of one iteration; the last cache is the chunk's, the others are decodes'."""
    contexts, chunks = batch
    parts = [(1, context, cache) for context, cache in zip(contexts, caches)]
    parts += [(size, context, caches[-1]) for size, context in chunks]
    for _, context, cache in parts:
        cache.truncate(0)
        cache.commit(torch.zeros(context, dtype=torch.long))
    run = [Chunk(torch.zeros(size, dtype=torch.long), cache) for size, _, cache in parts]
    _synchronize(model)
    began = time.perf_counter()
    model(run)
    _synchronize(model)
    return time.perf_counter() - began


def _synchronize(model: Decoder) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def _check(model, num_batches, max_chunk_tokens, max_context, max_decodes, rounds) -> None:
    lowest = {
        "num_batches": (num_batches, MIN_BATCHES), "max_chunk_tokens": (max_chunk_tokens, 2),
        "max_context": (max_context, 1), "max_decodes": (max_decodes, 2), "rounds": (rounds, 1),
    }  # fmt: skip
    for name, (value, low) in lowest.items():
        if value < low:
            raise ValueError(f"{name} must be >= {low}, got {value}")
    limit = model.config.max_position_embeddings
    if max_context + max_chunk_tokens > limit:
        raise ValueError(
            f"max_context + max_chunk_tokens must be <= {limit}, the context of "
            f"{model.config.name}, got {max_context} + {max_chunk_tokens}; lower one of them"
        )
