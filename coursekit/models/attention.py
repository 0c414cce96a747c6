"""Causal attention of the last tokens of a context to all of it, by PyTorch's own kernels.

One function for a chunk of one request. Which keys belong to whom is the caches' business, and
how the tokens of many requests are packed is the executor's.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from coursekit.kv_cache.layout import multiplies_plainly

# On an H100 PyTorch would take cuDNN's kernel for a whole prompt, which plans anew for every
# length, and flash attention for a chunk behind others. One kernel for both: a comparison of
# chunked and one-shot prefill then compares the chunking.
CUDA_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
BLOCK_ROWS = 192  # rows of a block of scores: as many as stay in a core's cache


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of a chunk's tokens, the last of the context.

    queries: (num_heads, num_tokens, head_dim); keys, values: (num_kv_heads, context, head_dim)
    with context >= num_tokens. The chunk's tokens are the *last* of the context, so query i
    sees the first context - num_tokens + i + 1 keys. Returns the shape of `queries`.
    """
    num_tokens, context = queries.shape[1], keys.shape[1]
    if num_tokens == 1:
        return attend_one(queries[None], keys[None], values[None])[0]
    if multiplies_plainly(queries.dtype, queries.device):
        return _attend_in_blocks(queries, keys, values)
    if num_tokens == context:
        mask = {"is_causal": True}
    elif queries.device.type == "cpu":
        mask = {"attn_mask": _mask(num_tokens, context, queries.dtype)}
    else:
        mask = {"attn_mask": causal_lower_right(num_tokens, context)}
    past = (keys[None], values[None])  # the fast kernels want a batch dimension
    with sdpa_kernel(CUDA_KERNELS) if queries.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(queries[None], *past, **mask, enable_gqa=True)[0]


@lru_cache(maxsize=2)
def _mask(num_tokens: int, context: int, dtype: torch.dtype) -> Tensor:
    """What to add to the scores on the CPU, (num_tokens, context): -inf where a key is ahead.

    Kept, since all layers of an iteration want the same.
    """
    ahead = torch.full((num_tokens, context), -torch.inf, dtype=dtype)
    return ahead.triu_(context - num_tokens + 1)


def attend_one(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """One token of each of several requests, each against its own keys.

    queries: (batch, num_heads, 1, head_dim); keys, values: (batch, num_kv_heads, context,
    head_dim); mask: (batch, 1, 1, context), what to add to the scores. Returns as `queries`.
    """
    # The heads of a group share their keys: as rows of one matrix they read them once.
    rows = queries.view(len(keys), keys.shape[1], -1, queries.shape[3])
    if not multiplies_plainly(queries.dtype, queries.device):
        out = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
        return out.view_as(queries)
    rows = (rows * rows.shape[3] ** -0.5).flatten(0, 1)  # (batch * num_kv_heads, group, d)
    scores = torch.bmm(rows, keys.flatten(0, 1).transpose(1, 2))
    if mask is not None:
        scores = (scores.view(len(keys), -1, scores.shape[2]) + mask[:, 0]).view_as(scores)
    return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view_as(queries)


def _attend_in_blocks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As `attend`, by plain matrix products, a block of queries at a time.

    The heads of a group and the tokens of a block are the rows of one matrix.
    """
    (num_heads, num_tokens, size), (num_kv_heads, context, _) = queries.shape, keys.shape
    group, past = num_heads // num_kv_heads, context - num_tokens
    queries = (queries * size**-0.5).view(num_kv_heads, group, num_tokens, size)
    step, outputs = max(1, BLOCK_ROWS // group), []
    future = torch.full((step, step), -torch.inf, dtype=queries.dtype).triu(1)
    for start in range(0, num_tokens, step):
        end = min(start + step, num_tokens)
        seen, block = past + end, end - start
        rows = queries[:, :, start:end].reshape(num_kv_heads, group * block, size)
        scores = torch.bmm(rows, keys[:, :seen].transpose(1, 2))
        scores.view(num_kv_heads, group, block, seen)[..., past + start :] += future[:block, :block]
        out = torch.bmm(scores.softmax(-1), values[:, :seen])  # (num_kv_heads, rows, size)
        outputs.append(out.view(num_kv_heads, group, block, size))
    return torch.cat(outputs, dim=2).view(num_heads, num_tokens, size)
