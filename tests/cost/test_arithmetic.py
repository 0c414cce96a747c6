"""Operations and bytes: against hand counts, and against torch's own FLOP counter."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from coursekit.cost import batch_work, chunk_work
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


# --- Whole batches ---


@given(
    decodes=st.integers(0, 40), held=st.integers(0, 4000),
    chunks=st.lists(st.tuples(st.integers(1, 900), st.integers(0, 900)), max_size=4),
)  # fmt: skip
def test_a_batch_reads_the_weights_once_and_adds_up_the_rest(decodes, held, chunks):
    held = held if decodes else 0
    if not decodes and not chunks:
        return
    batch = batch_work(LLAMA, decodes, held, [(None, *chunk) for chunk in chunks])
    parts = [chunk_work(LLAMA, size, context) for size, context in chunks]
    # decodes of any contexts: what counts is their sum
    parts += [chunk_work(LLAMA, 1, held if k == 0 else 0) for k in range(decodes)]
    total = parts[0]
    for part in parts[1:]:
        total += part
    assert batch.flop == total.flop and batch.kv_bytes == total.kv_bytes
    assert batch.weight_bytes * len(parts) == total.weight_bytes


def test_operations_of_a_mixed_batch_are_those_that_torch_counts(tiny_model):
    caches = [tiny_model.new_cache(64) for _ in range(3)]
    for cache in caches[:2]:
        tiny_model([Chunk(torch.arange(9), cache)])
    batch = [Chunk(torch.zeros(1, dtype=torch.long), cache) for cache in caches[:2]]
    with FlopCounterMode(display=False) as counter:
        tiny_model([*batch, Chunk(torch.arange(20), caches[2])])
    counts = counter.get_flop_counts()["Global"]
    linear = sum(n for op, n in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    assert batch_work(tiny_model.config, 2, 18, [(None, 20, 0)]).linear_flop == linear


def test_a_batch_of_decodes_has_the_intensity_of_its_size_until_the_cache_weighs_in():
    assert batch_work(LLAMA, 32, 32).intensity == pytest.approx(32, rel=0.02)
    assert batch_work(LLAMA, 32, 32 * 4000).intensity < 8


@pytest.mark.parametrize(
    "args, message",
    [
        ((-1, 0), "num_decodes must be >= 0, got -1"),
        ((0, 5), "0 without decodes, got 5 with 0"),
        ((2, -1), "decode_context must be >= 0.*got -1"),
        ((0, 0), "at least 1 token, got none"),
        ((1, 5, [(None, 0, 0)]), "num_tokens must be >= 1, got 0"),
    ],
)
def test_impossible_batches_are_refused(args, message):
    with pytest.raises(ValueError, match=message):
        batch_work(LLAMA, *args)
