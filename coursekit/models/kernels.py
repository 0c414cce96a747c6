"""Which of our own GPU kernels can run here.

They are written in Triton, which comes with PyTorch for CUDA on Linux and compiles them when
they are first used, for which it needs a C compiler. Where that does not work the same is done
by PyTorch's kernels, slower: this module only finds out which it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class FusedKernels(NamedTuple):
    """Steps of a layer that are one kernel each: see `fused` for both."""

    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    gate: Callable[[Tensor], Tensor]


class DecodeKernels(NamedTuple):
    """Storing and attending rows of one token each: see `decode_attention` for both."""

    store: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]
    attend: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def fused_kernels(device: torch.device) -> FusedKernels | None:
    """Our kernels for a layer's small steps on this device; None where PyTorch's do them."""
    return _load_fused() if device.type == "cuda" else None


def decode_kernels(device: torch.device) -> DecodeKernels | None:
    """Our kernels for decoding on this device; None where PyTorch's do it."""
    if fused_kernels(device) is None:
        return None
    from coursekit.models import decode_attention

    return DecodeKernels(decode_attention.store, decode_attention.attend)


@cache
def _load_fused() -> FusedKernels | None:
    """Try one kernel, once in a process; if it fails, log why and do without Triton."""
    try:
        from coursekit.models import fused

        fused.gate(torch.zeros(1, 32, device="cuda"))
        torch.cuda.synchronize()
    except Exception as error:  # no Triton, no C compiler, an unknown GPU: many types
        log.warning(
            "Triton does not work here (%s: %s): PyTorch's kernels are used, decoding is slower "
            "and CUDA graphs are off; install a C compiler (gcc) and the triton package",
            type(error).__name__, error,
        )  # fmt: skip
        return None
    return FusedKernels(fused.rotate, fused.gate)
