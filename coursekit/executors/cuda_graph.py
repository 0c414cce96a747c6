"""Decode steps that are recorded once and replayed: the whole forward is one launch.

A decode of a 7B model is some six hundred kernels of a few microseconds each, which Python
can't launch as fast as a GPU runs them. A CUDA graph (`torch.cuda.CUDAGraph`) repeats recorded
kernels on the same memory, so inputs are copied into fixed buffers, and a batch is padded to the
next of a few sizes. Batches with chunks are not its business: `packed` runs those.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from coursekit.executors.packed import Part
from coursekit.kv_cache.slotted import SlottedKVCache
from coursekit.models.decoder import Decoder
from coursekit.models.kernels import DecodeKernels

MOST_ROWS = 256  # larger batches run long enough for Python to keep up


def batch_sizes(max_num_seqs: int) -> list[int]:
    """Sizes to which batches are padded, ascending: 1, 2, 4, then multiples of 8."""
    most = min(max_num_seqs, MOST_ROWS)
    return sorted({size for size in (1, 2, 4, *range(8, most, 8)) if size < most} | {most})


@cache
def capture_stream() -> torch.cuda.Stream:
    """The one stream to record on: cuBLAS keeps tens of MiB for each stream it has seen."""
    return torch.cuda.Stream()


class DecodeGraphs:
    """The decode steps of `model` over `cache`, one for each size of batch.

    A size is recorded when it first occurs, or by `capture_all`. With capture=False the same
    steps run kernel by kernel, on any device. kernels: how rows are stored and attended.
    sizes: see `batch_sizes`.
    """

    def __init__(
        self, model: Decoder, cache: SlottedKVCache, kernels: DecodeKernels, capture: bool = True
    ):
        self.model, self.cache, self.kernels, self.capture = model, cache, kernels, capture
        self.sizes = batch_sizes(len(cache.lengths))
        most, device = self.sizes[-1], model.device
        self._staging = torch.zeros(4, most, dtype=torch.long, pin_memory=device.type == "cuda")
        self._inputs = torch.zeros(4, most, dtype=torch.long, device=device)
        self._rows = torch.arange(most, device=device)
        self._logits = torch.zeros(most, model.config.vocab_size, dtype=model.dtype, device=device)
        self._likeliest = torch.zeros(most, dtype=torch.long, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle() if capture else None

    def takes(self, parts: list[Part]) -> bool:
        """Whether it can run these: one token of each of no more requests than it has rows."""
        return 0 < len(parts) <= self.sizes[-1] and all(len(p.token_ids) == 1 for p in parts)

    def run(self, parts: list[Part]) -> tuple[Tensor, Tensor]:
        """Logits of parts that it `takes`, (num_parts, vocab_size), and the likeliest tokens,
        (num_parts,).

        Both are on the device, which may still be at work, and the next run writes over them.
        Raises RuntimeError if a step can't be recorded.
        """
        num_parts = len(parts)
        size = next(size for size in self.sizes if size >= num_parts)
        if self.capture and size not in self._graphs:
            self._capture(size)
        rows = [(part.token_ids[0], part.context, part.slot, part.end) for part in parts]
        self._staging.zero_()  # a row of length 0 is padding: it stores and attends nothing
        self._staging[:, :num_parts] = torch.tensor(rows).t()
        self._inputs.copy_(self._staging, non_blocking=True)
        if self.capture:
            self._graphs[size].replay()
        else:
            self._forward(size)
        return self._logits[:num_parts], self._likeliest[:num_parts]

    def capture_all(self) -> None:
        """Record every size now, the largest first: the others then fit into its memory."""
        for size in reversed(self.sizes):
            if self.capture and size not in self._graphs:
                self._capture(size)

    def _forward(self, size: int) -> None:
        """One step over the first `size` rows of the inputs, into the buffers for results."""
        token_ids, positions, slots, lengths = self._inputs[:, :size]

        def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            past = self.cache.keys[layer], self.cache.values[layer]
            self.kernels.store(keys, values, *past, slots, lengths)
            return self.kernels.attend(queries, *past, slots, lengths)

        logits = self.model.run(token_ids, positions, attend, self._rows[:size])
        self._logits[:size].copy_(logits)
        self._likeliest[:size].copy_(logits.argmax(dim=-1))

    def _capture(self, size: int) -> None:
        """Record `_forward`. All rows are padding meanwhile, so no request's KV is touched."""
        self._inputs.zero_()
        try:
            graph, stream = torch.cuda.CUDAGraph(), capture_stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._forward(size)  # compiles kernels and makes tables, which can't be recorded
            torch.cuda.current_stream().wait_stream(stream)
            # other threads may use the GPU meanwhile, e.g. ask how much memory is free
            with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
                self._forward(size)
        except Exception as error:
            raise RuntimeError(
                f"the decode step of {size} requests can't be recorded as a CUDA graph ({error}); "
                "run without: TorchExecutor(..., cuda_graphs=False)"
            ) from error
        self._graphs[size] = graph
