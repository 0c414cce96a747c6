"""A matrix product whose weights may be laid out anew for the CPU's kernels.

oneDNN, which multiplies for PyTorch on CPUs, reads its own blocked layout faster than rows: a
decode step, which does little but read weights, takes a third less. The results are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The operations behind PyTorch's own "freezing" compiler pass; it has no public name for them.
_REORDER, _MULTIPLY = "_reorder_linear_weight", "_linear_pointwise"


class Linear(nn.Linear):
    """`nn.Linear` without bias. After `prepack` it multiplies by a second copy of its weights."""

    packed: Tensor | None = None

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def prepack(self) -> None:
        """Lay out a copy of the present weights for bfloat16 on this CPU, if it has the kernels.

        The copy takes as much memory again, and does not follow later changes of the weights.
        """
        if can_prepack(self.weight):
            self.packed = getattr(torch.ops.mkldnn, _REORDER)(self.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:  # (num_tokens, in_features) -> (.., out_features)
        if self.packed is None:
            return F.linear(x, self.weight)
        return getattr(torch.ops.mkldnn, _MULTIPLY)(x, self.packed, None, "none", [], "")


def can_prepack(weight: Tensor) -> bool:
    """Whether this torch, on this CPU, has the kernels for weights of this type."""
    return (
        weight.dtype is torch.bfloat16
        and weight.device.type == "cpu"
        and all(hasattr(torch.ops.mkldnn, name) for name in (_REORDER, _MULTIPLY))
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
