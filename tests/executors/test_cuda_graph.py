"""The steps that CUDA graphs record, run kernel by kernel on the CPU: same tokens, nothing
written for padding. `test_cuda.py` replays them on a GPU."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coursekit.executors import TorchExecutor
from coursekit.executors.cuda_graph import DecodeGraphs, batch_sizes
from coursekit.executors.packed import PackedBatch, Part
from coursekit.kv_cache import SlottedKVCache
from coursekit.live import TorchEngine
from coursekit.models.kernels import DecodeKernels
from coursekit.models.sampling import Sampling
from coursekit.schedulers import StallFree
from tests.live.serving import expected, serve
from tests.models.plain_decode import PLAIN, attend
from tests.schedulers.checker import Arrival
from tests.schedulers.workloads import LONGEST, workloads

thorough = settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large,
                           HealthCheck.function_scoped_fixture],
)  # fmt: skip
CROWD = [Arrival(0, 20, 12), Arrival(0, 20, 12), Arrival(1, 20, 12), Arrival(2, 8, 12)]


def filled_cache(config, num_slots, capacity=40):
    """A cache with something in every place, so that reading too far and stray writes show."""
    cache = SlottedKVCache(config, num_slots, capacity)
    generator = torch.Generator().manual_seed(0)
    for memory in (cache.keys, cache.values):
        memory.copy_(torch.randn(memory.shape, generator=generator))
    return cache


def make_parts(contexts, num_slots, seed):
    """One token each behind these contexts, in slots in random order."""
    slots = torch.randperm(num_slots, generator=torch.Generator().manual_seed(seed)).tolist()
    return [Part(slot, [7 * slot + 1], context) for slot, context in zip(slots, contexts)]


def run_packed(model, parts, cache, kernels=None):
    packed = PackedBatch(parts, cache, kernels)
    rows = packed.last_rows(list(range(len(parts))))
    return model.run(packed.token_ids, packed.positions, packed.attend, rows)


def new_engine(model, num_seqs=4, sampling=None):
    """An engine that decodes by static steps, uncaptured."""
    engine = TorchEngine(
        model, StallFree(30, num_seqs), max_model_len=LONGEST, sampling=sampling
    )
    executor = engine.executor
    executor._kernels = PLAIN
    executor._graphs = DecodeGraphs(model, executor.cache, PLAIN, capture=False)
    return engine


def test_sizes_of_batches_end_with_the_largest():
    assert batch_sizes(1) == [1] and batch_sizes(3) == [1, 2, 3] and batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(20) == [1, 2, 4, 8, 16, 20]
    assert batch_sizes(1000)[-2:] == [248, 256]


@thorough
@given(contexts=st.lists(st.integers(0, 39), min_size=1, max_size=11), seed=st.integers(0, 99))
def test_a_static_step_gives_the_logits_of_a_packed_batch_and_writes_only_its_rows(
    tiny_model, contexts, seed
):
    caches = [filled_cache(tiny_model.config, 11) for _ in range(2)]
    parts = make_parts(contexts, 11, seed)
    graphs = DecodeGraphs(tiny_model, caches[0], PLAIN, capture=False)
    graphs.run(make_parts([39] * 11, 11, 5))  # leaves a full batch in the buffers
    caches[0].keys.copy_(caches[1].keys)
    caches[0].values.copy_(caches[1].values)
    logits, likeliest = graphs.run(parts)
    reference = run_packed(tiny_model, parts, caches[1])
    assert logits.shape == reference.shape and torch.allclose(logits, reference, atol=2e-4)
    assert likeliest.tolist() == reference.argmax(-1).tolist()
    assert torch.allclose(caches[0].keys, caches[1].keys, atol=1e-4)
    assert torch.allclose(caches[0].values, caches[1].values, atol=1e-4)


def store_padding_too(keys, values, past_keys, past_values, slots, lengths):
    past_keys[slots, :, lengths - 1] = keys
    past_values[slots, :, lengths - 1] = values


def places_written(model, parts, kernels):
    """(slot, place) of all that a static step over `parts` writes, as keys or as values."""
    cache = filled_cache(model.config, 11)
    before = cache.keys.clone(), cache.values.clone()
    DecodeGraphs(model, cache, kernels, capture=False).run(parts)
    changes = [(new != old).nonzero() for new, old in zip((cache.keys, cache.values), before)]
    return {(slot, place) for _, slot, _, place, _ in torch.cat(changes).tolist()}


def test_padding_rows_write_nothing(tiny_model):
    parts = [Part(6, [5], 3), Part(1, [5], 9), Part(10, [5], 39)]  # and a row of padding
    own = {(6, 3), (1, 9), (10, 39)}
    assert places_written(tiny_model, parts, PLAIN) == own
    careless = DecodeKernels(store_padding_too, attend)
    assert places_written(tiny_model, parts, careless) > own


@thorough
@given(workload=workloads, num_seqs=st.integers(1, 9))
def test_every_request_gets_the_tokens_it_gets_alone(tiny_model, workload, num_seqs):
    assert serve(new_engine(tiny_model, num_seqs), workload) == expected(tiny_model, workload)


def test_sampled_tokens_are_those_of_packed_batches(tiny_model):
    sampling = Sampling(1.0, 0.9, 3)
    packed = TorchEngine(tiny_model, StallFree(30, 4), max_model_len=LONGEST, sampling=sampling)
    assert serve(new_engine(tiny_model, 4, sampling), CROWD) == serve(packed, CROWD)


def read_one_too_few(queries, keys, values, slots, lengths):
    return attend(queries, keys, values, slots, lengths - (lengths > 1).long())


def test_a_planted_fault_shows_in_the_tokens(tiny_model):
    engine = new_engine(tiny_model)
    engine.executor._graphs.kernels = DecodeKernels(PLAIN.store, read_one_too_few)
    assert serve(engine, CROWD) != expected(tiny_model, CROWD)


def test_mixed_batches_give_the_same_by_kernels_and_without(tiny_model):
    parts = [Part(1, [7, 8, 9], 4), Part(3, [2], 9), Part(0, [1], 5), Part(2, [3, 4], 0)]
    caches = [filled_cache(tiny_model.config, 4) for _ in range(2)]
    logits = [
        run_packed(tiny_model, parts, cache, kernels)
        for cache, kernels in zip(caches, (None, PLAIN), strict=True)
    ]
    assert torch.allclose(*logits, atol=2e-4)
    assert torch.allclose(caches[0].keys, caches[1].keys, atol=1e-4)


def test_only_batches_of_single_tokens_within_its_size_are_taken(tiny_model):
    graphs = DecodeGraphs(tiny_model, filled_cache(tiny_model.config, 3), PLAIN, capture=False)
    one = Part(0, [1], 4)
    assert graphs.takes([one]) and graphs.takes([one] * 3)
    assert not graphs.takes([one] * 4) and not graphs.takes([])
    assert not graphs.takes([one, Part(1, [1, 2], 0)])


def test_what_can_not_be_recorded_says_so(tiny_model):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here, on which it can be")
    with pytest.raises(ValueError, match="cuda_graphs=True needs a CUDA device.*on cpu"):
        TorchExecutor(tiny_model, max_model_len=100, cuda_graphs=True)
    graphs = DecodeGraphs(tiny_model, filled_cache(tiny_model.config, 3), PLAIN, capture=False)
    graphs.capture = True
    with pytest.raises(RuntimeError, match="step of 2 requests can't be.*cuda_graphs=False"):
        graphs.run([Part(0, [1], 4), Part(1, [1], 4)])


def test_without_graphs_there_is_nothing_to_warm_up(tiny_model):
    executor = TorchExecutor(tiny_model, max_model_len=100, cuda_graphs=False)
    executor.warm_up()
    assert not executor.uses_cuda_graphs
