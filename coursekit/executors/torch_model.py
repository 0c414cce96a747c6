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
from coursekit.executors.packed import PackedBatch, Part
from coursekit.kv_cache.slotted import SlottedKVCache
from coursekit.models.sampling import Sampling
from coursekit.request import Request

if TYPE_CHECKING:
    from coursekit.models.decoder import Decoder


class TorchExecutor:
    """Runs batches on `model`, with KV slots for `max_num_seqs` requests of `max_model_len`.

    max_num_tokens: most tokens of one batch; sampling: how tokens are chosen (default: the most
    likely). label: "live (device)". tokens: request -> its token ids, prompt and generated; slots:
    request -> its KV slot.
    Raises ValueError for a size out of range, and MemoryError if KV cache and activations do
    not fit beside the weights.
    """

    def __init__(
        self,
        model: Decoder,
        max_num_seqs: int = 16,
        max_model_len: int = 2048,
        max_num_tokens: int = 2048,
        sampling: Sampling | None = None,
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
        self.tokens: dict[Request, list[int]] = {}
        self.slots: dict[Request, int] = {}

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
        packed = PackedBatch(parts, self.cache)
        owners = [work[index][0] for index in packed.order]
        done = [i for i, owner in enumerate(owners) if packed.parts[i].end == self._length(owner)]
        logits = self.model.run(
            packed.token_ids, packed.positions, packed.attend, packed.rows[done]
        )
        places = [(owners[i].index, packed.parts[i].end) for i in done]
        sampled = self.sampling.choose(logits, places) if done else []
        packed.commit()
        new = {owners[i]: token for i, token in zip(done, sampled, strict=True)}
        for request, token in new.items():
            self.tokens[request].append(token)
        return new

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
    batch, the widest tensors that a layer holds at once, and the logits.
    """
    config, width = model.config, model.dtype.itemsize
    kv = max_num_seqs * max_model_len * config.kv_bytes_per_token(width)
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    widest = 3 * config.hidden_size + max(heads, 3 * config.intermediate_size)
    activations = max_num_tokens * widest * width + max_num_seqs * config.vocab_size * 2 * width
    free = _free_bytes(model.device)
    if free is not None and kv + activations > free:
        raise MemoryError(
            f"{config.name} needs {kv / 2**30:.1f} GiB of KV cache for {max_num_seqs} requests of "
            f"{max_model_len} tokens and {activations / 2**30:.1f} GiB for batches of "
            f"{max_num_tokens}, {free / 2**30:.1f} GiB are free on {model.device}; lower "
            "max_num_seqs or max_model_len"
        )


def _free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device; None where it can't be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        import psutil

        return psutil.virtual_memory().available
    return None
