"""Prepacked weights give the very results of plain ones, and only where there are kernels."""

import pytest
import torch

from coursekit.models import build_model, load_model
from coursekit.models.linear import Linear, can_prepack


@pytest.mark.parametrize("num_tokens", [1, 4, 65])
def test_packed_weights_multiply_as_plain_ones(num_tokens):
    layer = Linear(576, 960).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(num_tokens, 576, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain = layer(x)
    layer.prepack()
    assert (layer.packed is not None) == can_prepack(layer.weight)
    assert torch.allclose(layer(x).float(), plain.float(), rtol=0.02, atol=0.02)


def test_float32_stays_as_it_is(tiny_model):
    assert all(m.packed is None for m in tiny_model.modules() if isinstance(m, Linear))


def test_a_large_model_is_not_kept_twice(tiny_config, monkeypatch):
    monkeypatch.setattr("coursekit.models.load.MOST_PREPACKED_BYTES", 1000)
    model = build_model(tiny_config, torch.bfloat16)
    assert all(m.packed is None for m in model.modules() if isinstance(m, Linear))


def test_the_default_model_is_packed_where_bfloat16_is_native():
    model = load_model(device="cpu", dtype=torch.bfloat16)
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert all((m.packed is not None) == native for m in model.modules() if isinstance(m, Linear))
