"""Prefill and decode times measured on a real model, here and now."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from coursekit.chunking.processor import ChunkedPrefillProcessor
from coursekit.device import detect_device
from coursekit.models.decoder import Chunk, Decoder

SLOW_S = 1.0  # a measurement longer than this is not repeated: its spread is small anyway


class LiveTorchSource:
    """Times `model` with random prompts; a time is the median of up to `repeats` runs.

    The label names the device, as every measured figure must. Raises ValueError for
    repeats < 1, and (from its methods) for lengths outside the model's context.
    """

    def __init__(self, model: Decoder, repeats: int = 3, seed: int = 0):
        if repeats < 1:
            raise ValueError(f"repeats must be >= 1, got {repeats}")
        self.model = model
        self.repeats = repeats
        self.label = f"live ({detect_device(model.device.type).label()})"
        self._generator = torch.Generator().manual_seed(seed)
        self._warm_up()

    def prefill_s(self, prompt_length: int) -> float:
        """Seconds to prefill `prompt_length` tokens in one shot."""
        cache = self.model.new_cache(prompt_length)
        prompt = random_prompt(self.model, prompt_length, self._generator)
        processor = ChunkedPrefillProcessor(self.model, enable_chunking=False)

        def run():
            cache.truncate(0)
            processor.process(prompt, cache)

        return self._median_s(run)

    def decode_s(self, context_length: int) -> float:
        """Seconds of one decode step behind `context_length` tokens.

        The context's values are made up, not computed: attention takes as long either way.
        """
        cache = self.model.new_cache(context_length + 1)
        fill_cache(cache, context_length, self._generator)
        token = torch.zeros(1, dtype=torch.long)

        def run():
            cache.truncate(context_length)
            self.model([Chunk(token, cache)])

        run()
        return self._median_s(run, self.repeats + 2)

    def _median_s(self, run: Callable[[], None], repeats: int | None = None) -> float:
        times: list[float] = []
        while len(times) < (repeats or self.repeats):
            times.append(self._time_s(run))
            if times[-1] > SLOW_S:
                break
        return median(times)

    def _time_s(self, run: Callable[[], None]) -> float:
        _synchronize(self.model)
        began = time.perf_counter()
        run()
        _synchronize(self.model)
        return time.perf_counter() - began

    def _warm_up(self) -> None:
        """The first run of anything pays for memory and code paths; keep that out."""
        cache = self.model.new_cache(64)
        self.model([Chunk(random_prompt(self.model, 63, self._generator), cache)])
        self.model([Chunk(torch.zeros(1, dtype=torch.long), cache)])


def random_prompt(model: Decoder, length: int, generator: torch.Generator) -> torch.Tensor:
    """`length` random token ids of the model's vocabulary, (length,)."""
    return torch.randint(model.config.vocab_size, (length,), generator=generator)


def fill_cache(cache, length: int, generator: torch.Generator) -> None:
    """Make `cache` hold `length` tokens of random keys and values, as if computed."""
    layers, heads, _, head_dim = cache.keys.shape
    block = torch.randn((heads, length, head_dim), generator=generator).to(cache.keys)
    for layer in range(layers):
        cache.write(layer, block, block)
    cache.commit(torch.zeros(length, dtype=torch.long))


def _synchronize(model: Decoder) -> None:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
