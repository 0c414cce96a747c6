"""Counting the work of a batch: floating-point operations and bytes moved.

Two counts per chunk explain most of serving. Weights are read once per iteration however many
tokens ride along; operations grow with every token. This module counts; what a device makes
of the counts is a cost model's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from coursekit.cost.base import Chunks
from coursekit.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Work:
    """What one iteration computes (FLOP) and must read or write at least (bytes)."""

    linear_flop: int
    attention_flop: int
    weight_bytes: int
    kv_bytes: int

    def __add__(self, other: Work) -> Work:
        """Both iterations' work: a chunked prefill is the sum of its chunks."""
        return Work(
            self.linear_flop + other.linear_flop, self.attention_flop + other.attention_flop,
            self.weight_bytes + other.weight_bytes, self.kv_bytes + other.kv_bytes,
        )  # fmt: skip

    @property
    def flop(self) -> int:
        return self.linear_flop + self.attention_flop

    @property
    def bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity: FLOP per byte moved."""
        return self.flop / self.bytes


def chunk_work(
    config: ModelConfig, num_tokens: int, context_length: int = 0, bytes_per_value: int = 2
) -> Work:
    """Work of one iteration with one chunk of `num_tokens` behind `context_length` tokens.

    A decode step is `num_tokens=1`; a one-shot prefill has `context_length=0`.
    Raises ValueError for num_tokens < 1 or context_length < 0.
    """
    return batch_work(config, 0, 0, [(None, num_tokens, context_length)], bytes_per_value)


def batch_work(
    config: ModelConfig,
    num_decodes: int,
    decode_context: int,
    chunks: Chunks = (),
    bytes_per_value: int = 2,
) -> Work:
    """Work of one iteration; its counts as in `CostModel.iteration_s`.

    The weights are read once for all. A multiply and an add count as 2 FLOP. The output
    projection runs for the last token of each request alone, as serving engines do it. Softmax,
    norms and activations are left out: under 1% of either count.
    Raises ValueError for impossible counts, and for an iteration without any token.
    """
    _check(num_decodes, decode_context, chunks)
    parts = [(size, context) for _, size, context in chunks]
    num_tokens = num_decodes + sum(size for size, _ in parts)
    num_sequences = num_decodes + len(parts)
    # token i of a chunk attends to context + i + 1 tokens, itself included
    pairs = decode_context + num_decodes
    pairs += sum(size * context + size * (size + 1) // 2 for size, context in parts)
    # old ones read; new ones written and read
    tokens_moved = decode_context + sum(context for _, context in parts) + 2 * num_tokens
    head_parameters = config.vocab_size * config.hidden_size
    linear = num_tokens * config.num_linear_parameters + num_sequences * head_parameters
    return Work(
        linear_flop=2 * linear,
        attention_flop=4 * config.num_layers * config.num_heads * config.head_dim * pairs,
        weight_bytes=(config.num_linear_parameters + head_parameters) * bytes_per_value,
        kv_bytes=tokens_moved * config.kv_bytes_per_token(bytes_per_value),
    )


def _check(num_decodes: int, decode_context: int, chunks: Chunks) -> None:
    if num_decodes < 0:
        raise ValueError(f"num_decodes must be >= 0, got {num_decodes}")
    if decode_context < 0 or (decode_context and not num_decodes):
        raise ValueError(
            f"decode_context must be >= 0, and 0 without decodes, got {decode_context} with "
            f"{num_decodes} decodes"
        )
    for _, size, context in chunks:
        if size < 1:
            raise ValueError(f"num_tokens must be >= 1, got {size}")
        if context < 0:
            raise ValueError(f"context_length must be >= 0, got {context}")
    if not num_decodes and not chunks:
        raise ValueError("an iteration needs at least 1 token, got none: add a decode or a chunk")
