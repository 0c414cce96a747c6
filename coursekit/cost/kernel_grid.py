"""What an iteration costs, put together from kernels that were measured one by one.

    seconds = once(tokens) + layers * (operators(tokens) + attention) + head(sequences) + host

Every number is a measurement of the device; between two of them a straight line is drawn.
What is not in the kernels' times has to be added by name: the tokens that a CUDA graph pads a
batch to, and the host's own time per iteration.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from coursekit.cost.base import Chunks
from coursekit.cost.grid_files import KernelGrids

ONCE = ("embedding", "final_layernorm")  # of the dense operators; all others are in each layer
TWICE = ("layernorm",)  # in each layer: before attention and before the feed-forward


class KernelGridCost:
    """A cost model from `grids`, for a model of `num_layers` layers like the one profiled.

    capture_sizes: tokens that the engine has captured CUDA graphs for: a batch of no more than
    the largest is padded to the next (vLLM: cudagraph_capture_sizes); none if empty.
    host_s: seconds of an iteration in which the device waits for the host.
    Raises ValueError for num_layers < 1, a capture size < 1, or host_s < 0.
    """

    def __init__(
        self,
        grids: KernelGrids,
        num_layers: int,
        capture_sizes: Sequence[int] = (),
        host_s: float = 0.0,
    ):
        if num_layers < 1:
            raise ValueError(f"num_layers must be >= 1, got {num_layers}")
        if min(capture_sizes, default=1) < 1:
            raise ValueError(f"capture_sizes must be >= 1 token, got {min(capture_sizes)}")
        if host_s < 0:
            raise ValueError(f"host_s must be >= 0, got {host_s}")
        self.grids, self.num_layers, self.host_s = grids, num_layers, host_s
        self.capture_sizes = sorted(capture_sizes)
        self.label = f"simulated ({grids.device}, kernels recorded {grids.date})"
        self._launch_s = min(grids.prefill.smallest, grids.decode.smallest)
        self._dense_s = lru_cache(None)(self._dense_s)
        self._head_s = lru_cache(None)(self._head_s)
        self._decode_line = lru_cache(None)(grids.decode.line)

    def iteration_s(self, num_decodes: int, decode_context: int, chunks: Chunks) -> float:
        """Seconds of one iteration; see `coursekit.cost.base`. A chunk of 1 token is a decode."""
        tokens, sequences, prompts = num_decodes, num_decodes, []
        for _, size, context in chunks:
            tokens += size
            sequences += 1
            if size == 1:
                num_decodes += 1
                decode_context += context
            else:
                prompts.append((size, context))
        if not prompts:
            attention = self._decode_line(num_decodes)(decode_context / num_decodes)
        else:
            attention = self._attention_s(num_decodes, decode_context, prompts)
        fixed = self._dense_s(self.padded(tokens)) + self._head_s(sequences) + self.host_s
        return fixed + self.num_layers * attention

    def decode_run_s(
        self, num_decodes: int, decode_context: int, num_iterations: int
    ) -> np.ndarray:
        """Seconds of consecutive iterations of decodes alone; see `coursekit.cost.base`."""
        tokens = self.padded(num_decodes)
        fixed = self._dense_s(tokens) + self._head_s(num_decodes) + self.host_s
        contexts = decode_context + num_decodes * np.arange(num_iterations)
        attention = self._decode_line(num_decodes).of(contexts / num_decodes)
        return fixed + self.num_layers * attention

    def padded(self, tokens: int) -> int:
        """Tokens that the engine computes for a batch of `tokens`."""
        place = bisect_left(self.capture_sizes, tokens)
        return tokens if place == len(self.capture_sizes) else self.capture_sizes[place]

    def _attention_s(self, num_decodes, decode_context, prompts) -> float:
        """Attention of one layer, with at least one chunk.

        The grid has one chunk, so several are added up, each without the launch that they
        share. What decodes add is what they add to one chunk of as many tokens.
        """
        launch_s = self._launch_s
        attention = launch_s + sum(self.grids.prefill(*each) - launch_s for each in prompts)
        if num_decodes:
            size = sum(size for size, _ in prompts)
            context = sum(size * context for size, context in prompts) / size
            both = self.grids.mixed(size, context, num_decodes, decode_context / num_decodes)
            attention += both - self.grids.prefill(size, context)
        return attention

    def _dense_s(self, tokens: int) -> float:
        """All dense operators of all layers."""
        seconds = 0.0
        for name, grid in self.grids.dense.items():
            calls = 1 if name in ONCE else self.num_layers * (2 if name in TWICE else 1)
            seconds += calls * grid(tokens)
        return seconds

    def _head_s(self, sequences: int) -> float:
        """Output projection and sampling, for the last token of each sequence."""
        return sum(grid(sequences) for grid in self.grids.per_sequence.values())
