"""Counting the work of a batch: floating-point operations and bytes moved.

Two counts per chunk explain most of serving. Weights are read once per iteration however many
tokens ride along; operations grow with every token. This module counts; what a device makes
of the counts is a cost model's matter.
"""

from __future__ import annotations

from dataclasses import dataclass

from coursekit.models.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Work:
    """What one iteration computes (FLOP) and must read or write at least (bytes)."""

    linear_flop: int
    attention_flop: int
    weight_bytes: int
    kv_bytes: int

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

    A decode step is `num_tokens=1`; a one-shot prefill has `context_length=0`. A multiply and
    an add count as 2 FLOP. The output projection runs for the last token alone, as serving
    engines do it. Softmax, norms and activations are left out: under 1% of either count.
    Raises ValueError for num_tokens < 1 or context_length < 0.
    """
    if num_tokens < 1:
        raise ValueError(f"num_tokens must be >= 1, got {num_tokens}")
    if context_length < 0:
        raise ValueError(f"context_length must be >= 0, got {context_length}")
    head_parameters = config.vocab_size * config.hidden_size
    # token i of the chunk attends to context_length + i + 1 tokens, itself included
    pairs = num_tokens * context_length + num_tokens * (num_tokens + 1) // 2
    tokens_moved = context_length + 2 * num_tokens  # old ones read; new ones written and read
    return Work(
        linear_flop=2 * (num_tokens * config.num_linear_parameters + head_parameters),
        attention_flop=4 * config.num_layers * config.num_heads * config.head_dim * pairs,
        weight_bytes=(config.num_linear_parameters + head_parameters) * bytes_per_value,
        kv_bytes=tokens_moved * config.kv_bytes_per_token(bytes_per_value),
    )
