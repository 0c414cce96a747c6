"""An executor that runs a real model: one forward per iteration, over a mixed batch.

What nano-vllm is to vLLM, with chunks and decodes in one batch. A scheduler has said how many
tokens of whom; this fetches those tokens, runs them behind what the KV cache holds of their
requests, and samples a token for each request that has caught up. It keeps no queues and knows
no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from coursekit.batch import Batch
from coursekit.device import detect_device
from coursekit.executors.cuda_graph import MOST_ROWS, DecodeGraphs
from coursekit.executors.packed import PackedBatch, Part
from coursekit.kv_cache.slotted import SlottedKVCache
from coursekit.models.kernels import decode_kernels
from coursekit.models.sampling import Sampling
from coursekit.request import Request

if TYPE_CHECKING:
    from coursekit.models.decoder import Decoder


class TorchExecutor:
    """Runs batches on `model`, with KV slots for `max_num_seqs` requests of `max_model_len`.

    max_num_tokens: most tokens of one batch; sampling: how tokens are chosen (default: the most
    likely). label: "live (device)". tokens: request -> its token ids, prompt and generated; slots:
    request -> its KV slot. cuda_graphs: whether batches of decodes alone are replayed from CUDA
    graphs (default: on CUDA, if Triton works there; `models.kernels` logs it if not).
    Raises ValueError for a size out of range and for CUDA graphs where they can't be had, and
    MemoryError if KV cache and activations do not fit beside the weights.
    """

    def __init__(
        self,
        model: Decoder,
        max_num_seqs: int = 16,
        max_model_len: int = 2048,
        max_num_tokens: int = 2048,
        sampling: Sampling | None = None,
        cuda_graphs: bool | None = None,
    ):
        if max_num_tokens < 1:
            raise ValueError(f"max_num_tokens must be >= 1, got {max_num_tokens}")
        self.model = model
        self.label = f"live ({detect_device(model.device.type).label()})"
        self.max_num_tokens = max_num_tokens
        self.sampling = sampling or Sampling()
        check_memory(model, max_num_seqs, max_model_len, max_num_tokens)
        self.cache = SlottedKVCache(
            model.config, max_num_seqs, max_model_len, model.dtype, model.device
        )
        self._kernels = decode_kernels(model.device)
        self._graphs: DecodeGraphs | None = None
        if cuda_graphs and self._kernels is None:
            raise ValueError(
                f"cuda_graphs=True needs a CUDA device on which Triton works, the model is on "
                f"{model.device}; leave it out"
            )
        if cuda_graphs is not False and self._kernels is not None:
            self._graphs = DecodeGraphs(model, self.cache, self._kernels)
        self.tokens: dict[Request, list[int]] = {}
        self.slots: dict[Request, int] = {}

    @property
    def uses_cuda_graphs(self) -> bool:
        """Whether batches of decodes alone are replayed from CUDA graphs."""
        return self._graphs is not None and self._graphs.capture

    def warm_up(self) -> None:
        """Record all CUDA graphs now, so that no iteration of a run takes longer for it.

        Does nothing without graphs. Raises RuntimeError if one can't be recorded.
        """
        if self._graphs is not None:
            self._graphs.capture_all()

    def add(self, request: Request, prompt_token_ids: Sequence[int]) -> None:
        """Take in a request's prompt, before the first batch with it.

        Raises ValueError for a prompt of another length than the request says, for token ids
        outside the vocabulary, and for a request longer than a slot.
        """
        ids, size = list(prompt_token_ids), self.model.config.vocab_size
        if len(ids) != request.num_prompt_tokens:
            raise ValueError(
                f"request {request.index} has num_prompt_tokens {request.num_prompt_tokens} and "
                f"{len(ids)} token ids; make them agree"
            )
        if bad := [token for token in ids if not 0 <= token < size]:
            raise ValueError(
                f"token ids must be in 0..{size - 1}, got {bad[0]}; use this model's tokenizer"
            )
        longest = request.num_prompt_tokens + request.max_tokens - 1  # the last is never run
        if longest > self.cache.capacity:
            raise ValueError(
                f"request {request.index} may reach {longest} tokens, a KV slot holds "
                f"{self.cache.capacity}; shorten it or raise max_model_len"
            )
        self.tokens[request] = ids

    def execute(self, batch: Batch, decoding: Sequence[Request] = ()) -> dict[Request, int]:
        """Run `batch` and return the next token of each request that it brought up to date.

        decoding: the members of the decode group, if they are in the batch. If it fails, in
        whatever way, no request has a token more, in `tokens` or in the KV cache.
        Raises ValueError for a batch over max_num_tokens, and RuntimeError if what the KV cache
        holds of a request is not what the scheduler has counted.
        """
        for request in batch.preempted:
            self.release(request)
        work = [(request, 1) for request in decoding]
        work += [(request, num_tokens) for request, num_tokens, _ in batch.chunks]
        if (total := sum(num_tokens for _, num_tokens in work)) > self.max_num_tokens:
            raise ValueError(
                f"a batch of {total} tokens is over max_num_tokens = "
                f"{self.max_num_tokens}; lower the token budget or raise that limit"
            )
        contexts = {request: context for request, _, context in batch.chunks}
        parts = [self._part(request, n, contexts.get(request)) for request, n in work]
        done = [i for i, (request, _) in enumerate(work) if parts[i].end == self._length(request)]
        places = [(work[i][0].index, parts[i].end) for i in done]
        sampled = self._run(parts, done, places)
        for part in parts:  # the forward succeeded: what it wrote is valid
            self.cache.lengths[part.slot] = part.end
        new = {work[i][0]: token for i, token in zip(done, sampled, strict=True)}
        for request, token in new.items():
            self.tokens[request].append(token)
        return new

    def _run(
        self, parts: list[Part], done: list[int], places: list[tuple[int, int]]
    ) -> list[int]:
        """Run all parts; a token for each of those that are `done`, whose places are given.

        Returns when the device has finished, else the time of this iteration would show up in
        a later one.
        """
        if self._graphs is not None and self._graphs.takes(parts):
            logits, likeliest = self._graphs.run(parts)
            if self.sampling.temperature == 0:
                tokens = likeliest.tolist()
                return [tokens[index] for index in done]
            logits = logits[done]
        else:
            packed = PackedBatch(parts, self.cache, self._kernels)
            logits = self.model.run(
                packed.token_ids, packed.positions, packed.attend, packed.last_rows(done)
            )
        if done:
            return self.sampling.choose(logits, places)
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        return []

    def release(self, request: Request) -> None:
        """Free the KV slot of a request, if it has one; it keeps its tokens."""
        slot = self.slots.pop(request, None)
        if slot is not None:
            self.cache.release(slot)

    def forget(self, request: Request) -> None:
        """Drop all that is held of a request that is finished or given up."""
        self.release(request)
        self.tokens.pop(request, None)

    def _length(self, request: Request) -> int:
        return len(self.tokens[request])

    def _part(self, request: Request, num_tokens: int, context: int | None) -> Part:
        """The request's next tokens and its slot; a request that begins gets a slot."""
        tokens = self.tokens[request]
        if request not in self.slots:
            self.slots[request] = self.cache.take()
        slot = self.slots[request]
        held = self.cache.lengths[slot]
        context = len(tokens) - 1 if context is None else context
        if held != context or context + num_tokens > len(tokens):
            raise RuntimeError(
                f"the KV cache holds {held} tokens of request {request.index}, the scheduler "
                f"counts {context} computed and {num_tokens} next of {len(tokens)}"
            )
        return Part(slot, tokens[context : context + num_tokens], context)


def check_memory(
    model: Decoder, max_num_seqs: int, max_model_len: int, max_num_tokens: int
) -> None:
    """Raise MemoryError if KV cache and activations do not fit into what is free now.

    The weights are loaded already. Counted: keys and values of every slot; of the largest
    batch, the widest tensors that a layer holds at once, and the logits; on CUDA, the same of
    the largest decode step once more, since CUDA graphs have memory of their own. Not counted:
    what the decode kernels keep between their two halves, under a thousandth of the KV cache.
    """
    config, width = model.config, model.dtype.itemsize
    kv = max_num_seqs * max_model_len * config.kv_bytes_per_token(width)
    activations = _activation_bytes(model, max_num_tokens, max_num_seqs)
    if model.device.type == "cuda":
        rows = min(max_num_seqs, MOST_ROWS)
        activations += _activation_bytes(model, rows, rows)
    free = _free_bytes(model.device)
    if free is not None and kv + activations > free:
        raise MemoryError(
            f"{config.name} needs {kv / 2**30:.1f} GiB of KV cache for {max_num_seqs} requests of "
            f"{max_model_len} tokens and {activations / 2**30:.1f} GiB for batches of "
            f"{max_num_tokens}, {free / 2**30:.1f} GiB are free on {model.device}; lower "
            "max_num_seqs or max_model_len"
        )


def _activation_bytes(model: Decoder, num_tokens: int, num_rows: int) -> int:
    """What a forward over so many tokens needs, with logits (and a copy) at so many rows."""
    config, width = model.config, model.dtype.itemsize
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widest = 3 * config.hidden_size + max(heads, 3 * config.intermediate_size)
    return (num_tokens * widest + num_rows * config.vocab_size * 2) * width


def _free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device; None where it can't be told."""
    if device.type == "cuda":  # PyTorch keeps memory that nobody uses any more, for reuse
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "cpu":
        import psutil

        return psutil.virtual_memory().available
    return None
