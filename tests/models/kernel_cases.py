"""What is asked of each Triton kernel, in Triton's interpreter or on a GPU.

Not collected by itself: `test_decode_attention.py` runs it in a process of its own, with
TRITON_INTERPRET=1 where there is no GPU.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.executors.cuda_graph import DecodeGraphs
from coursekit.executors.packed import PackedBatch, Part
from coursekit.kv_cache import SlottedKVCache
from coursekit.models import ModelConfig, build_model, decode_attention, decoder, fused
from coursekit.models.kernels import DecodeKernels, FusedKernels
from tests.models import plain_decode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton 3.7's interpreter multiplies bfloat16 by its bits, as if they were integers
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
LENGTHS = [0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300]


def close(actual, expected):
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 2e-5}[actual.dtype]
    return torch.isfinite(actual).all() and torch.allclose(actual, expected, tolerance, tolerance)


def make_case(lengths, num_kv_heads, group, head_dim, capacity, dtype=torch.float32, seed=0):
    """Queries, keys, values, slots in random order, lengths; NaN past each row's tokens."""
    generator = torch.Generator().manual_seed(seed)
    num_slots, batch = len(lengths) + 2, len(lengths)
    shape = (num_slots, num_kv_heads, capacity, head_dim)
    keys, values = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    slots = torch.randperm(num_slots, generator=generator)[:batch]
    for slot, length in zip(slots, lengths, strict=True):
        keys[slot, :, length:] = torch.nan
        values[slot, :, length:] = torch.nan
    # between rows lies something else, as in a row of queries, keys and values
    wide = torch.randn(batch, num_kv_heads * group + 3, head_dim, generator=generator).to(dtype)
    case = wide, keys, values, slots, torch.tensor(lengths)
    wide, *rest = (tensor.to(DEVICE) for tensor in case)
    return wide[:, : num_kv_heads * group], *rest


def check(*args, **options):
    case = make_case(*args, **options)
    assert close(decode_attention.attend(*case), plain_decode.attend(*case))


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("group", [1, 3, 4, 8])
def test_rows_of_all_lengths_in_one_batch(group, head_dim, dtype):
    check(LENGTHS, 2, group, head_dim, 320, dtype=dtype)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("group", [1, 4])
def test_one_row_of_each_length(length, group):
    check([length], 2, group, 64, 512)


@pytest.mark.parametrize("splits", [1, 2, 4, 8, 32])
def test_any_number_of_splits_gives_the_same(monkeypatch, splits):
    monkeypatch.setattr(decode_attention, "num_splits", lambda *sizes: splits)
    check([1, 64, 65, 0, 500, 512], 2, 4, 64, 512)


def test_full_slots_padding_rows_and_large_scores():
    check([512, 0, 0, 512], 2, 4, 64, 512)
    check([0], 1, 1, 64, 16)
    queries, *rest = make_case([100, 300], 2, 4, 64, 320)
    sharp = 100 * queries, *rest
    assert close(decode_attention.attend(*sharp), plain_decode.attend(*sharp))


@pytest.mark.parametrize("group, head_dim", [(2, 8), (32, 16), (5, 80)])
def test_sizes_that_are_padded_inside(group, head_dim):
    check([1, 17, 40], 2, group, head_dim, 64)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 200), min_size=1, max_size=5),
    num_kv_heads=st.sampled_from([1, 2, 3]), group=st.sampled_from([1, 2, 3, 4, 8]),
    head_dim=st.sampled_from([8, 64, 128]), spare=st.integers(1, 70), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_batch(lengths, num_kv_heads, group, head_dim, spare, seed):
    check(lengths, num_kv_heads, group, head_dim, max(lengths) + spare, seed=seed)


@pytest.mark.parametrize("head_dim", [8, 64, 80])
def test_new_tokens_are_stored_at_their_place_and_nowhere_else(head_dim):
    lengths = [1, 0, 40, 17]
    queries, past_keys, past_values, slots, lengths = make_case(lengths, 2, 2, head_dim, 40)
    keys, values = queries[:, :2], queries[:, 2:]  # rows apart from each other
    expected = [past_keys.nan_to_num(7.0), past_values.nan_to_num(7.0)]
    actual = [past.clone() for past in expected]
    plain_decode.store(keys, values, *expected, slots, lengths)
    decode_attention.store(keys, values, *actual, slots, lengths)
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_memory_with_tokens_innermost_is_refused():
    queries, keys, values, slots, lengths = make_case([5], 2, 2, 64, 16)
    turned = keys.transpose(-1, -2).contiguous().transpose(-1, -2)
    with pytest.raises(ValueError, match="head_dim must be innermost"):
        decode_attention.attend(queries, turned, values, slots, lengths)


@pytest.mark.parametrize(
    "batch, num_kv_heads, capacity, splits",
    [(1, 32, 4096, 16), (32, 32, 4096, 2), (1, 8, 4096, 32), (64, 32, 1024, 1), (1, 1, 16, 1)],
)
def test_splits_fill_the_device_and_are_not_tiny(batch, num_kv_heads, capacity, splits):
    assert decode_attention.num_splits(batch, num_kv_heads, capacity) == splits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads, head_dim", [(1, 8), (12, 64), (40, 128), (3, 80)])
def test_heads_are_turned_as_the_decoder_does(heads, head_dim, dtype):
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(shape, generator=generator).to(DEVICE, dtype)  # noqa: E731
    x = make(5, heads + 2, head_dim)[:, :heads]
    cos, sin = make(5, 1, head_dim), make(5, 1, head_dim)
    rolled = x.float().roll(head_dim // 2, dims=-1)
    expected = (x.float() * cos.float() + rolled * sin.float()).to(dtype)
    assert close(fused.rotate(x, cos, sin), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [48, 1024, 1536])
def test_the_gate_opens_as_the_decoder_does(size, dtype):
    generator = torch.Generator().manual_seed(0)
    both = 5 * torch.randn(3, 2 * size, generator=generator).to(DEVICE, dtype)
    opened, up = both.float().chunk(2, dim=-1)
    expected = (torch.nn.functional.silu(opened) * up).to(dtype)
    assert close(fused.gate(both), expected)


def test_a_decoder_with_all_our_kernels_gives_the_logits_of_one_without(monkeypatch):
    """Batches of decodes and mixed ones, with the strides that the decoder hands over."""
    config = ModelConfig("tiny", 97, 32, 48, 2, 4, 2, 8, 512)
    model = build_model(config, device=DEVICE)
    parts = [Part(slot, [slot], context) for slot, context in [(3, 0), (0, 9), (1, 30)]]
    mixed = [*parts, Part(2, [4, 5, 6], 20)]

    def logits(kernels, fused_kernels):
        monkeypatch.setattr(decoder, "fused_kernels", lambda device: fused_kernels)
        cache = SlottedKVCache(config, 5, 40, device=DEVICE)
        for memory in (cache.keys, cache.values):
            memory.copy_(torch.randn(memory.shape, generator=torch.Generator().manual_seed(0)))
        packed = PackedBatch(mixed, cache, kernels)
        run = packed.token_ids, packed.positions, packed.attend, packed.last_rows([0, 1, 2, 3])
        together = model.run(*run)
        graphs = DecodeGraphs(model, cache, kernels or plain_decode.PLAIN, capture=False)
        return together, graphs.run(parts)[0], cache.keys

    ours = logits(
        DecodeKernels(decode_attention.store, decode_attention.attend),
        FusedKernels(fused.rotate, fused.gate),
    )
    for actual, expected in zip(ours, logits(None, None), strict=True):
        assert torch.allclose(actual, expected, atol=1e-4)
