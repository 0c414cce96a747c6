"""Operations and bytes: against hand counts, and against torch's own FLOP counter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from coursekit.cost import chunk_work
from coursekit.models import SHAPES, Chunk

LLAMA = SHAPES["llama-2-7b"]


@pytest.mark.parametrize("num_tokens", [1, 7, 40])
def test_linear_operations_are_those_that_torch_counts(tiny_model, num_tokens):
    with FlopCounterMode(display=False) as counter:
        tiny_model([Chunk(torch.arange(num_tokens), tiny_model.new_cache(64))])
    counts = counter.get_flop_counts()["Global"]
    linear = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    assert chunk_work(tiny_model.config, num_tokens).linear_flop == linear


def test_a_decode_step_of_a_7b_model_costs_two_operations_per_weight():
    work = chunk_work(LLAMA, 1, 1000)
    assert work.linear_flop == pytest.approx(2 * 6.607e9, rel=1e-3)
    assert work.weight_bytes == pytest.approx(2 * 6.607e9, rel=1e-3)


def test_kv_bytes_of_a_decode_step_grow_by_half_a_mebibyte_per_token():
    more, less = chunk_work(LLAMA, 1, 1001).kv_bytes, chunk_work(LLAMA, 1, 1000).kv_bytes
    assert more - less == 2 * 32 * 32 * 128 * 2 == 2**19


def test_a_decode_step_has_the_intensity_of_one_and_a_prefill_of_hundreds():
    assert chunk_work(LLAMA, 1, 1000).intensity < 1.1
    assert chunk_work(LLAMA, 2048, 0).intensity > 500


@given(
    length=st.integers(2, 3000), size=st.integers(1, 3000), shape=st.sampled_from(list(SHAPES))
)
def test_chunking_keeps_the_attention_and_repeats_the_reading(length, size, shape):
    config = SHAPES[shape]
    one_shot = chunk_work(config, length)
    starts = range(0, length, size)
    chunks = [chunk_work(config, min(size, length - at), at) for at in starts]
    assert sum(c.attention_flop for c in chunks) == one_shot.attention_flop
    assert sum(c.weight_bytes for c in chunks) == len(chunks) * one_shot.weight_bytes
    assert sum(c.kv_bytes for c in chunks) >= one_shot.kv_bytes


@pytest.mark.parametrize("args, message", [((0, 0), "num_tokens"), ((1, -1), "context_length")])
def test_impossible_chunks_are_refused(args, message):
    with pytest.raises(ValueError, match=f"{message} must be >="):
        chunk_work(LLAMA, *args)
