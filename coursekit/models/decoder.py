"""A Llama-family decoder that runs chunks of requests, written to be read.

RMSNorm, rotary positions, grouped-query attention, SwiGLU. There is no prefill pass and no
decode pass: a forward takes *chunks*, each some tokens of one request behind what its KV
cache already holds. A prompt in one shot is one long chunk, a decode step is a chunk of one
token, and a mixed batch is several of both, packed without padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from coursekit.kv_cache.contiguous import ContiguousKVCache
from coursekit.models.config import ModelConfig


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
        """positions: (num_tokens,) -> cos, sin, each (num_tokens, 1, head_dim)."""
        if self.cos is None or self.cos.device != positions.device or self.cos.dtype != dtype:
            self._fill(positions.device, dtype)
        return self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1)

    def _fill(self, device: torch.device, dtype: torch.dtype) -> None:
        frequencies = rotary_frequencies(self.config).to(device)  # (head_dim / 2,)
        positions = torch.arange(self.config.max_position_embeddings, device=device)
        angles = torch.outer(positions.float(), frequencies).repeat(1, 2)
        self.cos, self.sin = angles.cos().to(dtype), angles.sin().to(dtype)


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
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of a chunk's last tokens to the whole context.

    queries: (num_heads, num_tokens, head_dim); keys, values: (num_kv_heads, context, head_dim)
    with context >= num_tokens. The chunk's tokens are the *last* of the context, so query i
    sees the first context - num_tokens + i + 1 keys. Returns the shape of `queries`.
    """
    num_tokens, context = queries.shape[1], keys.shape[1]
    past = (keys[None], values[None])  # the fast kernels want a batch dimension
    if num_tokens == 1:
        # The heads of a group share their keys: as rows of one matrix they read them once.
        rows = queries.view(1, len(keys), -1, queries.shape[2])  # (1, num_kv_heads, group, d)
        return F.scaled_dot_product_attention(rows, *past).view_as(queries)
    if num_tokens == context:
        mask = {"is_causal": True}
    else:
        mask = {"attn_mask": causal_lower_right(num_tokens, context)}
    return F.scaled_dot_product_attention(queries[None], *past, **mask, enable_gqa=True)[0]


class Attention(nn.Module):
    """Grouped-query attention (arXiv 2305.13245), each chunk against its own cache."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_dim
        query_size = config.num_heads * config.head_dim
        kv_size = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_size, bias=False)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, rotary, chunks: Sequence[Chunk], layer: int) -> Tensor:
        """x: (num_tokens, hidden_size), all chunks packed one behind the other."""
        per_head = (len(x), -1, self.head_dim)
        queries = rotate(self.q_proj(x).view(per_head), *rotary)  # (num_tokens, num_heads, d)
        keys = rotate(self.k_proj(x).view(per_head), *rotary)  # (num_tokens, num_kv_heads, d)
        values = self.v_proj(x).view(per_head)
        sizes = [len(chunk.token_ids) for chunk in chunks]
        packed = zip(chunks, queries.split(sizes), keys.split(sizes), values.split(sizes))
        outputs = []
        for chunk, q, k, v in packed:
            k, v = chunk.cache.write(layer, k.transpose(0, 1), v.transpose(0, 1))
            out = attend(q.transpose(0, 1), k, v)  # (num_heads, chunk tokens, d)
            outputs.append(out.transpose(0, 1).flatten(1))
        return self.o_proj(torch.cat(outputs))


class SwiGLU(nn.Module):
    """The gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # (num_tokens, hidden_size) -> same
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what came in."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rotary, chunks: Sequence[Chunk], layer: int) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, chunks, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """The whole model. Attribute names follow Hugging Face's, so its weights load as they are."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
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

    @torch.inference_mode()
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
        rotary = self.rotary(positions, self.dtype)
        x = self.embed_tokens(token_ids)  # (num_tokens, hidden_size)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotary, chunks, index)
        ends = torch.tensor([len(chunk.token_ids) for chunk in chunks]).cumsum(0) - 1
        logits = self.lm_head(self.norm(x[ends.to(self.device)]))
        for chunk in chunks:
            chunk.cache.commit(chunk.token_ids)
        return logits

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


def _positions(chunk: Chunk) -> Tensor:
    """Places of the chunk's tokens in their request, (num_tokens,)."""
    return torch.arange(len(chunk.token_ids)) + chunk.cache.length
