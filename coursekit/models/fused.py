"""Two steps of a decoder layer in one kernel each, in Triton, for CUDA.

PyTorch takes several kernels for them, and each reads and writes all of its tensors. The
readable version of what is computed here is in `decoder`, and is what other devices run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 1024  # that one program of `gate` makes
HEADS = 8  # that one program of `rotate` turns


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As `decoder.rotate`. x: (num_tokens, heads, head_dim), head_dim innermost in memory;
    cos, sin: (num_tokens, 1, head_dim), contiguous. Returns x's shape, contiguous."""
    num_tokens, num_heads, head_dim = x.shape
    output = torch.empty_like(x, memory_format=torch.contiguous_format)
    _rotate_heads[(num_tokens, triton.cdiv(num_heads, HEADS))](
        x, cos, sin, output, num_heads, *x.stride()[:2], HALF=head_dim // 2,
        WIDTH=triton.next_power_of_2(head_dim // 2), BLOCK=HEADS, num_warps=2,
    )  # fmt: skip
    return output


def gate(gate_up: Tensor) -> Tensor:
    """silu(gate) * up. gate_up: (num_tokens, 2 * size), contiguous, the gate's half first.
    Returns (num_tokens, size)."""
    num_tokens, size = gate_up.shape[0], gate_up.shape[1] // 2
    output = gate_up.new_empty(num_tokens, size)
    _gate_columns[(num_tokens, triton.cdiv(size, COLUMNS))](
        gate_up, output, size, BLOCK=COLUMNS, num_warps=4
    )
    return output


@triton.jit
def _rotate_heads(
    x, cos, sin, output, num_heads, x_row, x_head,
    HALF: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per token and BLOCK heads; the sine of the first half is negative."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    dim = tl.arange(0, WIDTH)
    inside = dim < HALF
    mask = (head < num_heads)[:, None] & inside[None, :]
    at = x + row * x_row + head[:, None] * x_head + dim[None, :]  # (BLOCK, WIDTH)
    first = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=mask, other=0.0).to(tl.float32)
    angle = row * 2 * HALF + dim
    cos_first = tl.load(cos + angle, mask=inside, other=0.0).to(tl.float32)
    cos_second = tl.load(cos + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    sin_first = tl.load(sin + angle, mask=inside, other=0.0).to(tl.float32)
    sin_second = tl.load(sin + angle + HALF, mask=inside, other=0.0).to(tl.float32)
    to = output + (row * num_heads + head[:, None]) * 2 * HALF + dim[None, :]
    kind = output.dtype.element_ty
    tl.store(to, (first * cos_first[None, :] + second * sin_first[None, :]).to(kind), mask=mask)
    turned = second * cos_second[None, :] + first * sin_second[None, :]
    tl.store(to + HALF, turned.to(kind), mask=mask)


@triton.jit
def _gate_columns(gate_up, output, size, BLOCK: tl.constexpr):
    """One program per token and BLOCK columns."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < size
    at = gate_up + row * 2 * size + column
    opened = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + size, mask=mask, other=0.0).to(tl.float32)
    product = opened / (1.0 + tl.exp(-opened)) * up
    tl.store(output + row * size + column, product.to(output.dtype.element_ty), mask=mask)
