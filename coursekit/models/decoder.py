"""A Llama-family decoder that runs chunks of requests, written to be read.

RMSNorm, rotary positions, grouped-query attention, SwiGLU. There is no prefill pass and no
decode pass: a forward takes *chunks*, each some tokens of one request behind what its KV
cache already holds. A prompt in one shot is one long chunk, a decode step is a chunk of one
token, and a mixed batch is several of both, packed without padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coursekit.kv_cache.contiguous import ContiguousKVCache
from coursekit.models.attention import attend
from coursekit.models.config import ModelConfig
from coursekit.models.kernels import fused_kernels
from coursekit.models.linear import Linear

# Attention of a packed batch. Gets the layer's number, queries (num_tokens, num_heads, head_dim)
# and new keys and values (num_tokens, num_kv_heads, head_dim), stores the latter with those of
# the tokens before, and returns what the queries gather, (num_tokens, num_heads, head_dim).
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some next tokens of one request, (num_tokens,), and the cache of those before."""

    token_ids: Tensor
    cache: ContiguousKVCache


class RMSNorm(nn.Module):
    """Scale each token's vector to unit mean square, in float32 (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:  # (num_tokens, size) -> same
        if x.is_cuda:  # the same in one kernel
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class RotaryTable(nn.Module):
    """Cosines and sines of the rotary position embedding (arXiv 2104.09864)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.cos: Tensor | None = None  # (positions so far, head_dim)
        self.sin: Tensor | None = None

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """positions: (num_tokens,) -> cos, sin, each (num_tokens, 1, head_dim).

        The sine of each pair's first half is negative: that is how `rotate` wants it.
        """
        if self.cos is None or self.cos.device != positions.device or self.cos.dtype != dtype:
            self._fill(positions.device, dtype)
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)

    def _fill(self, device: torch.device, dtype: torch.dtype) -> None:
        frequencies = rotary_frequencies(self.config).to(device)  # (head_dim / 2,)
        positions = torch.arange(self.config.max_position_embeddings, device=device)
        angles = torch.outer(positions.float(), frequencies)  # (positions, head_dim / 2)
        self.cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(dtype)
        self.sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(dtype)


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each pair of dimensions, (head_dim / 2,), float32.

    Llama 3.1 stretches its long wavelengths to reach further than it was first trained for:
    wavelengths under original/high_freq_factor stay, those over original/low_freq_factor are
    divided by `factor`, those between are blended (transformers, `modeling_rope_utils.py`).
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1: unchanged, 0: divided by factor
    return frequencies * (keep + (1 - keep) / scaling["factor"])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + head_dim/2) of x, (num_tokens, heads, head_dim), by its angle."""
    if (fused := fused_kernels(x.device)) is not None:
        return fused.rotate(x, cos, sin)
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245); `attend` knows whose keys are whose."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        size = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
        self.qkv_proj = Linear(config.hidden_size, size)
        self.o_proj = Linear(config.num_heads * config.head_dim, config.hidden_size)

    def forward(self, x: Tensor, rotary, attend: Attend, layer: int) -> Tensor:
        """x: (num_tokens, hidden_size), the tokens of all requests packed together."""
        heads = self.qkv_proj(x).view(len(x), -1, self.head_dim)  # (num_tokens, all heads, d)
        turned = rotate(heads[:, : -self.num_kv_heads], *rotary)  # queries and keys
        queries, keys = turned.split((self.num_heads, self.num_kv_heads), dim=1)
        out = attend(layer, queries, keys, heads[:, -self.num_kv_heads :])
        return self.o_proj(out.view(len(x), -1))


class SwiGLU(nn.Module):
    """The gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:  # (num_tokens, hidden_size) -> same
        both = self.gate_up_proj(x)
        if (fused := fused_kernels(x.device)) is not None:
            return self.down_proj(fused.gate(both))
        gate, up = both.chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what came in."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rotary, attend: Attend, layer: int) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, attend, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """The whole model. Attribute names follow Hugging Face's and, where matrices that share an
    input are one matrix here, vLLM's; `load.STACKED` lists those."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.rotary = RotaryTable(config)

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    def new_cache(self, capacity: int) -> ContiguousKVCache:
        """An empty cache for one request of up to `capacity` tokens."""
        return ContiguousKVCache(self.config, capacity, self.dtype, self.device)

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        """Run one iteration: every chunk behind its own cache, all in one packed batch.

        Returns the logits at the last token of each chunk, (num_chunks, vocab_size). The
        caches grow only if the whole forward succeeds. Raises ValueError for a chunk that is
        empty, does not fit its cache, has a token id outside the vocabulary, or shares its
        cache with another.
        """
        self._check(chunks)
        token_ids = torch.cat([chunk.token_ids for chunk in chunks]).to(self.device)
        positions = torch.cat([_positions(chunk) for chunk in chunks]).to(self.device)
        ends = torch.tensor([len(chunk.token_ids) for chunk in chunks]).cumsum(0) - 1
        logits = self.run(token_ids, positions, _attend_by(chunks), ends.to(self.device))
        for chunk in chunks:
            chunk.cache.commit(chunk.token_ids)
        return logits

    @torch.inference_mode()
    def run(self, token_ids: Tensor, positions: Tensor, attend: Attend, rows: Tensor) -> Tensor:
        """Logits at some rows of a packed batch, (len(rows), vocab_size).

        token_ids, positions: (num_tokens,) on the model's device; rows: (n,), which of them to
        sample from. attend: see `Attend`; nothing is checked here.
        """
        rotary = self.rotary(positions, self.dtype)
        x = self.embed_tokens(token_ids)  # (num_tokens, hidden_size)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, attend, index)
        return self.lm_head(self.norm(x[rows]))

    def _check(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            raise ValueError("a batch needs at least 1 chunk, got 0")
        if len({id(chunk.cache) for chunk in chunks}) < len(chunks):
            raise ValueError("each chunk of a batch needs a cache of its own; one is used twice")
        for chunk in chunks:
            size, cache = len(chunk.token_ids), chunk.cache
            if size == 0:
                raise ValueError("a chunk needs at least 1 token, got 0")
            if size > cache.num_free:
                raise ValueError(
                    f"a chunk of {size} tokens does not fit the cache: {cache.length} of "
                    f"{cache.capacity} slots are taken; make the cache larger"
                )
            low, high = chunk.token_ids.min().item(), chunk.token_ids.max().item()
            if low < 0 or high >= self.config.vocab_size:
                raise ValueError(
                    f"token ids must be in 0..{self.config.vocab_size - 1}, "
                    f"got {low if low < 0 else high}; use this model's own tokenizer"
                )


def _attend_by(chunks: Sequence[Chunk]) -> Attend:
    """Attention of a batch in which each chunk has a cache of its own."""
    sizes = [len(chunk.token_ids) for chunk in chunks]

    def attend_each(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        packed = zip(chunks, queries.split(sizes), keys.split(sizes), values.split(sizes))
        outputs = []
        for chunk, q, k, v in packed:
            k, v = chunk.cache.write(layer, k.transpose(0, 1), v.transpose(0, 1))
            out = attend(q.transpose(0, 1), k, v)  # (num_heads, chunk tokens, d)
            outputs.append(out.transpose(0, 1))
        return torch.cat(outputs)

    return attend_each


def _positions(chunk: Chunk) -> Tensor:
    """Places of the chunk's tokens in their request, (num_tokens,)."""
    return torch.arange(len(chunk.token_ids)) + chunk.cache.length
