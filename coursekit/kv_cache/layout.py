"""How keys and values lie in memory, which depends on what reads them fastest."""

from __future__ import annotations

import torch


def multiplies_plainly(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether plain matrix products are the fast way to attend.

    bfloat16 on CPUs without matrix units (AMX): `scaled_dot_product_attention` computes there in
    float32, plain products in bfloat16, which took a third to two thirds of the time. Scores are
    rounded to bfloat16 as in Hugging Face's eager attention. With AMX it is the other way round:
    PyTorch's kernel took a third of the time of plain products.
    """
    return dtype is torch.bfloat16 and device.type == "cpu" and not _has_matrix_units()


def _has_matrix_units() -> bool:
    """Whether this CPU multiplies bfloat16 in tiles (AMX), and this torch can tell."""
    tells = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return tells is not None and tells()


def allocate_kv(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zeroed memory for keys and values, each of `shape`, (.., tokens, head_dim).

    Where plain products attend, tokens are the innermost dimension of the keys' memory: the
    product with the queries then reads them in order.
    """
    values = torch.zeros(shape, dtype=dtype, device=device)
    if not multiplies_plainly(dtype, torch.device(device)):
        return torch.zeros_like(values), values
    turned = torch.zeros((*shape[:-2], shape[-1], shape[-2]), dtype=dtype, device=device)
    return turned.transpose(-1, -2), values
