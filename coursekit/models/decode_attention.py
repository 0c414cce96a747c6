"""Attention of one new token per request over the slotted KV cache, in Triton.

The context of a row is cut into splits that run side by side ("flash-decoding", as in the
FlashAttention repository), and a second small kernel joins them. The grid depends on the batch
and on the cache's capacity, never on the lengths: a captured CUDA graph serves any of them.
Chunks of more tokens are not its business; PyTorch's kernels attend those.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

WANTED_PROGRAMS = 512  # about four for each multiprocessor of an H100
SHORTEST_SPLIT, LONGEST_SPLIT = 128, 2048  # tokens of a full slot that one program reads


def num_splits(batch: int, num_kv_heads: int, capacity: int) -> int:
    """In how many pieces each context is read: a power of two, whatever the lengths.

    Enough to fill the device, and so many that one long request does not hold up the rest, but
    no split under SHORTEST_SPLIT tokens of a full slot.
    """
    wanted = max(
        triton.cdiv(WANTED_PROGRAMS, batch * num_kv_heads), triton.cdiv(capacity, LONGEST_SPLIT)
    )
    return triton.next_power_of_2(max(1, min(wanted, capacity // SHORTEST_SPLIT)))


def store(
    keys: Tensor, values: Tensor, past_keys: Tensor, past_values: Tensor, slots: Tensor,
    lengths: Tensor,
) -> None:  # fmt: skip
    """Write each row's key and value behind those of its slot, at place lengths - 1.

    keys, values: (batch, num_kv_heads, head_dim); past_keys, past_values: those of one layer,
    (num_slots, num_kv_heads, capacity, head_dim); slots, lengths: (batch,), integers. Rows of
    length 0 write nothing. Raises ValueError unless head_dim is innermost in memory.
    """
    _check_innermost(keys, values, past_keys, past_values)
    batch, num_kv_heads, head_dim = keys.shape
    _store_rows[(batch, num_kv_heads)](
        keys, values, past_keys, past_values, slots, lengths,
        *keys.stride()[:2], *values.stride()[:2], *past_keys.stride()[:3],
        *past_values.stride()[:3], HEAD_DIM=head_dim, WIDTH=triton.next_power_of_2(head_dim),
        num_warps=1,
    )  # fmt: skip


def attend(
    queries: Tensor, past_keys: Tensor, past_values: Tensor, slots: Tensor, lengths: Tensor
) -> Tensor:
    """What each row's query gathers from the first `lengths` tokens of its slot.

    queries: (batch, num_heads, head_dim); the rest as in `store`, the new tokens stored
    already and counted in lengths. Returns (batch, num_heads, head_dim), contiguous; zeros for
    rows of length 0. Scores and sums are float32. Raises ValueError unless head_dim is
    innermost in memory.
    """
    _check_innermost(queries, past_keys, past_values)
    batch, num_heads, head_dim = queries.shape
    num_kv_heads, capacity = past_keys.shape[1:3]
    group, splits = num_heads // num_kv_heads, num_splits(batch, num_kv_heads, capacity)
    width = max(16, triton.next_power_of_2(head_dim))  # tl.dot takes no less than 16
    wide = {"dtype": torch.float32, "device": queries.device}
    sums = torch.empty(batch, num_heads, splits, head_dim, **wide)
    tops = torch.empty(2, batch, num_heads, splits, **wide)
    _attend_splits[(batch, num_kv_heads, splits)](
        queries, past_keys, past_values, slots, lengths, sums, tops[0], tops[1],
        head_dim**-0.5 * 1.4426950408889634,  # times log2(e): the kernel takes powers of two
        *queries.stride()[:2], *past_keys.stride()[:3], *past_values.stride()[:3],
        GROUP=group, ROWS=max(16, triton.next_power_of_2(group)), HEAD_DIM=head_dim, WIDTH=width,
        TILE=64 if queries.itemsize == 2 else 32, SPLITS=splits, num_warps=4, num_stages=2,
    )  # fmt: skip
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    _join_splits[(batch, num_heads)](
        sums, tops[0], tops[1], output, HEAD_DIM=head_dim, WIDTH=width, SPLITS=splits, num_warps=2
    )
    return output


def _check_innermost(*tensors: Tensor) -> None:
    for tensor in tensors:
        if tensor.stride(-1) != 1:
            raise ValueError(
                f"head_dim must be innermost in memory, got strides {tensor.stride()} for "
                f"shape {tuple(tensor.shape)}; allocate keys and values on the GPU"
            )


@triton.jit
def _store_rows(
    keys, values, past_keys, past_values, slots, lengths,
    key_row, key_head, value_row, value_head,
    past_key_slot, past_key_head, past_key_token,
    past_value_slot, past_value_head, past_value_token,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program per row and KV head."""
    row, head = tl.program_id(0), tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)  # a layer may have over 2**31 values
    place = tl.load(lengths + row).to(tl.int64) - 1
    dim = tl.arange(0, WIDTH)
    real = (dim < HEAD_DIM) & (place >= 0)
    key = tl.load(keys + row * key_row + head * key_head + dim, mask=real)
    value = tl.load(values + row * value_row + head * value_head + dim, mask=real)
    to = slot * past_key_slot + head * past_key_head + place * past_key_token
    tl.store(past_keys + to + dim, key, mask=real)
    to = slot * past_value_slot + head * past_value_head + place * past_value_token
    tl.store(past_values + to + dim, value, mask=real)


@triton.jit
def _attend_splits(
    queries, past_keys, past_values, slots, lengths, sums, tops, totals, scale,
    query_row, query_head, key_slot, key_head, key_token, value_slot, value_head, value_token,
    GROUP: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One program per row, KV head and split: softmax over its piece, not yet divided.

    The query heads of a group are the rows of one matrix, padded to ROWS. A piece is a whole
    number of tiles, so that short contexts fill the first splits and leave the others empty.
    """
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row).to(tl.int32)
    slot = tl.load(slots + row).to(tl.int64)
    piece = tl.cdiv(tl.cdiv(length, TILE), SPLITS) * TILE
    first = split * piece
    last = tl.minimum(first + piece, length)

    member, dim, place = tl.arange(0, ROWS), tl.arange(0, WIDTH), tl.arange(0, TILE)
    inside = dim < HEAD_DIM
    own = (member < GROUP)[:, None] & inside[None, :]
    heads = head * GROUP + member
    query = tl.load(
        queries + row * query_row + heads[:, None] * query_head + dim[None, :], mask=own, other=0.0
    )  # (ROWS, WIDTH)
    key_start = past_keys + slot * key_slot + head * key_head
    value_start = past_values + slot * value_slot + head * value_head
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    gathered = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(first, last, TILE):
        token = start + place
        seen = token < last
        key = tl.load(
            key_start + token[None, :] * key_token + dim[:, None],
            mask=seen[None, :] & inside[:, None], other=0.0,
        )  # (WIDTH, TILE)  # fmt: skip
        scores = tl.dot(query, key, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))  # (ROWS, TILE)
        new_top = tl.maximum(top, tl.max(scores, 1))  # finite: each tile has a seen token
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        value = tl.load(
            value_start + token[:, None] * value_token + dim[None, :],
            mask=seen[:, None] & inside[None, :], other=0.0,
        )  # (TILE, WIDTH)  # fmt: skip
        mixed = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        gathered = gathered * shrink[:, None] + mixed
        total = total * shrink + tl.sum(weights, 1)
        top = new_top

    out = (row * tl.num_programs(1) * GROUP + heads) * SPLITS + split
    tl.store(tops + out, top, mask=member < GROUP)
    tl.store(totals + out, total, mask=member < GROUP)
    tl.store(sums + out[:, None] * HEAD_DIM + dim[None, :], gathered, mask=own)


@triton.jit
def _join_splits(
    sums, tops, totals, output,
    HEAD_DIM: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """One program per row and head: weigh the splits by what their softmax was taken over."""
    head = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    split, dim = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    inside = dim < HEAD_DIM
    top = tl.load(tops + head * SPLITS + split)
    total = tl.load(totals + head * SPLITS + split)
    empty_split = total == 0.0
    best = tl.max(top, 0)
    weight = tl.where(empty_split, 0.0, tl.exp2(top - best))  # all are empty: -inf - -inf
    part = tl.load(
        sums + (head * SPLITS + split)[:, None] * HEAD_DIM + dim[None, :],
        mask=inside[None, :], other=0.0,
    )  # (SPLITS, WIDTH)  # fmt: skip
    whole = tl.sum(weight * total, 0)
    joined = tl.sum(weight[:, None] * part, 0) / tl.where(whole > 0.0, whole, 1.0)
    tl.store(output + head * HEAD_DIM + dim, joined.to(output.dtype.element_ty), mask=inside)
