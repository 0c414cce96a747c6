"""Attention of a chunk, by whichever kernels this CPU would take and by those others take."""

from __future__ import annotations

import pytest
import torch

from coursekit.kv_cache import layout
from coursekit.models.attention import attend, attend_one


def written_out(queries, keys, values):
    """Attention as it is defined, in float64: every score, every softmax."""
    group, past = len(queries) // len(keys), keys.shape[1] - queries.shape[1]
    keys, values = (x.double().repeat_interleave(group, 0) for x in (keys, values))
    scores = queries.double() @ keys.transpose(1, 2) * queries.shape[2] ** -0.5
    ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(past + 1)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1) @ values


@pytest.mark.parametrize("matrix_units", [False, True])
@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("num_tokens, context", [(1, 1), (1, 70), (5, 5), (64, 65), (150, 470)])
def test_each_token_attends_to_all_before_it(
    num_tokens, context, dtype, most, matrix_units, monkeypatch
):
    monkeypatch.setattr(layout, "_has_matrix_units", lambda: matrix_units)
    generator = torch.Generator().manual_seed(num_tokens + context)
    shapes = (6, num_tokens, 16), (2, context, 16), (2, context, 16)
    parts = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    got = attend(*parts)
    assert got.dtype is dtype and got.shape == shapes[0]
    assert (got.double() - written_out(*parts)).abs().max() < most


@pytest.mark.parametrize("matrix_units", [False, True])
def test_padding_of_a_shorter_request_is_not_attended_to(matrix_units, monkeypatch):
    monkeypatch.setattr(layout, "_has_matrix_units", lambda: matrix_units)
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 6, 1, 16), (2, 2, 40, 16), (2, 2, 40, 16)
    queries, keys, values = (torch.randn(s, generator=generator).bfloat16() for s in shapes)
    mask = torch.zeros(2, 1, 1, 40, dtype=torch.bfloat16)
    mask[1, ..., 30:] = -torch.inf
    got = attend_one(queries, keys, values, mask)[1]
    alone = written_out(queries[1], keys[1, :, :30], values[1, :, :30])
    assert (got.double() - alone).abs().max() < 0.05
