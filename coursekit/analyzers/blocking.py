"""The blocking scenario, on a real model: streams decode, and a long prompt arrives.

Every iteration is one mixed batch: a chunk of the prompt and one token of each stream. So
the gap that a stream sees between two tokens is the duration of the iteration, and how large
a chunk is decides how long the streams wait. One policy, hard-wired: schedulers come later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from coursekit.analyzers.live_torch import fill_cache, random_prompt
from coursekit.chunking.processor import check_chunk_size
from coursekit.device import detect_device
from coursekit.models.decoder import Chunk, Decoder


@dataclass(frozen=True, slots=True)
class Iteration:
    """One forward: when, in seconds since the run began, and what was in the batch."""

    start_s: float
    end_s: float
    num_prefill_tokens: int
    num_decode_tokens: int

    @property
    def duration_s(self) -> float:
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class BlockingRun:
    """The record of one run. `chunk_size` None means the prompt ran in one shot."""

    label: str
    prompt_length: int
    chunk_size: int | None
    num_streams: int
    arrival_s: float
    iterations: tuple[Iteration, ...]

    @property
    def itls_s(self) -> np.ndarray:
        """Gaps that each stream saw: one per iteration, (num_iterations,)."""
        return np.array([it.duration_s for it in self.iterations])

    @property
    def worst_itl_s(self) -> float:
        return float(self.itls_s.max())

    @property
    def baseline_itl_s(self) -> float:
        """Median gap before the prompt arrived: decode alone."""
        alone = [it.duration_s for it in self.iterations if it.end_s <= self.arrival_s]
        return float(np.median(alone))

    @property
    def blocking_time_s(self) -> float:
        """Worst gap minus what that iteration would have cost without prefill tokens."""
        return self.worst_itl_s - self.baseline_itl_s

    @property
    def ttft_s(self) -> float:
        """From the prompt's arrival to the end of the iteration with its last chunk."""
        return max(it.end_s for it in self.iterations if it.num_prefill_tokens) - self.arrival_s

    @property
    def num_chunks(self) -> int:
        return sum(it.num_prefill_tokens > 0 for it in self.iterations)


def measure_blocking(
    model: Decoder,
    *,
    prompt_length: int,
    chunk_size: int | None,
    num_streams: int = 4,
    context_length: int = 64,
    lead_steps: int = 6,
    tail_steps: int = 6,
    on_iteration: Callable[[Iteration], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> BlockingRun:
    """Let `num_streams` streams decode, add a prompt of `prompt_length` tokens, and time it.

    chunk_size: tokens of the prompt per iteration, None for all at once. context_length: what
    each stream has behind it. The prompt arrives after `lead_steps` iterations of decode
    alone; `tail_steps` more follow its last chunk. `should_stop` is asked after the lead and
    after every later iteration that leaves something to do; the run so far is returned.
    Raises ValueError for a size or count < 1 or a length past the model's context.
    """
    _check(model, prompt_length, chunk_size, num_streams, context_length, lead_steps, tail_steps)
    size = chunk_size or prompt_length
    spans = [(at, min(at + size, prompt_length)) for at in range(0, prompt_length, size)]
    plan = [(0, 0)] * lead_steps + spans + [(0, 0)] * tail_steps
    stage = _Stage(model, prompt_length, num_streams, context_length, len(plan))
    iterations: list[Iteration] = []
    began = time.perf_counter()
    for index, span in enumerate(plan):
        # once the prompt has arrived at least one of its chunks is run, so a record has a TTFT
        if index > lead_steps and should_stop is not None and should_stop():
            break
        iterations.append(stage.step(*span, began))
        if on_iteration is not None:
            on_iteration(iterations[-1])
    return BlockingRun(
        label=f"live ({detect_device(model.device.type).label()})",
        prompt_length=prompt_length,
        chunk_size=chunk_size,
        num_streams=num_streams,
        arrival_s=iterations[lead_steps - 1].end_s,
        iterations=tuple(iterations),
    )


class _Stage:
    """The caches and tokens of one run, and how to make one iteration of them."""

    def __init__(self, model, prompt_length, num_streams, context_length, num_steps):
        generator = torch.Generator().manual_seed(0)
        self.model = model
        self.prompt = random_prompt(model, prompt_length, generator)
        self.prompt_cache = model.new_cache(prompt_length)
        room = context_length + num_steps + 1  # one more for the warm-up
        self.streams = [model.new_cache(room) for _ in range(num_streams)]
        for cache in self.streams:
            fill_cache(cache, context_length, generator)
        self.last_tokens = torch.zeros(num_streams, 1, dtype=torch.long)
        self.model(self._decodes())  # the first pays for memory and code paths

    def _decodes(self) -> list[Chunk]:
        return [Chunk(token, cache) for token, cache in zip(self.last_tokens, self.streams)]

    def step(self, start: int, end: int, began: float) -> Iteration:
        """Run one mixed batch: one token of each stream, and prompt[start:end] if not empty."""
        batch = self._decodes()
        if end > start:
            batch.append(Chunk(self.prompt[start:end], self.prompt_cache))
        start_s = time.perf_counter() - began
        logits = self.model(batch)
        tokens = logits.argmax(dim=-1).cpu()  # waits for the device: the tokens are real
        end_s = time.perf_counter() - began
        self.last_tokens = tokens[: len(self.streams), None]
        return Iteration(start_s, end_s, end - start, len(self.streams))


def _check(model, prompt_length, chunk_size, num_streams, context_length, lead_steps, tail_steps):
    """Raise ValueError for anything that would fail, or mean nothing, in the middle of a run."""
    counts = {
        "prompt_length": prompt_length,
        "num_streams": num_streams,
        "context_length": context_length,
        "lead_steps": lead_steps,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    if tail_steps < 0:
        raise ValueError(f"tail_steps must be >= 0, got {tail_steps}")
    if chunk_size is not None:
        check_chunk_size(chunk_size)
    limit = model.config.max_position_embeddings
    num_chunks = -(-prompt_length // (chunk_size or prompt_length))
    longest = max(prompt_length, context_length + lead_steps + num_chunks + tail_steps + 1)
    if longest > limit:
        raise ValueError(
            f"a request would reach {longest} tokens, the model's context is {limit}; shorten "
            "prompt_length or context_length, or take larger chunks"
        )
