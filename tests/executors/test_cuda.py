"""The torch engine on a GPU: graphs, kernel by kernel and the CPU give the same tokens."""

import copy
import gc

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from coursekit.batch import Batch, Chunk
from coursekit.executors import TorchExecutor
from coursekit.executors.cuda_graph import DecodeGraphs
from coursekit.executors.packed import PackedBatch, Part
from coursekit.live import TorchEngine
from coursekit.models import attention
from coursekit.models.kernels import decode_kernels
from coursekit.models.sampling import Sampling
from coursekit.request import Request
from coursekit.schedulers import StallFree
from tests.live.serving import expected, serve
from tests.schedulers.checker import Arrival
from tests.schedulers.workloads import LONGEST

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA device here; run it on a GPU"
)
CROWD = [
    Arrival(0, 20, 12), Arrival(0, 20, 12), Arrival(1, 20, 12), Arrival(2, 8, 12),
    Arrival(3, 33, 9), Arrival(9, 1, 20), Arrival(12, 40, 4),
]  # fmt: skip


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def gpu_model(tiny_model, request):
    return copy.deepcopy(tiny_model).to("cuda", request.param)


def new_engine(model, cuda_graphs=None, sampling=None):
    engine = TorchEngine(model, StallFree(30, 5), max_model_len=LONGEST, sampling=sampling)
    if cuda_graphs is False:
        engine.executor._graphs = None
    return engine


def without_kernels(model):
    engine = new_engine(model, cuda_graphs=False)
    engine.executor._kernels = None
    return engine


def test_our_kernels_and_cuda_graphs_are_in_use(gpu_model):
    assert decode_kernels(gpu_model.device) is not None
    assert TorchExecutor(gpu_model, max_model_len=100).uses_cuda_graphs
    assert not TorchExecutor(gpu_model, max_model_len=100, cuda_graphs=False).uses_cuda_graphs


def test_graphs_kernels_pytorch_and_the_cpu_give_the_same_tokens(tiny_model):
    model = copy.deepcopy(tiny_model).to("cuda")
    on_cpu = expected(tiny_model, CROWD)
    assert serve(new_engine(model), CROWD) == on_cpu
    assert serve(new_engine(model, cuda_graphs=False), CROWD) == on_cpu
    assert serve(without_kernels(model), CROWD) == on_cpu


def test_sampled_tokens_are_the_same_with_graphs_and_without(tiny_model):
    model, sampling = copy.deepcopy(tiny_model).to("cuda"), Sampling(1.0, 0.9, 1)
    sent = [serve(new_engine(model, graphs, sampling), CROWD) for graphs in (None, False)]
    assert sent[0] == sent[1]


def decode_contexts(graphs, contexts):
    parts = [Part(slot, [5 + slot], context) for slot, context in enumerate(contexts)]
    logits, likeliest = graphs.run(parts)
    return logits.float().cpu(), likeliest.tolist()


@pytest.mark.parametrize("all_at_once", [False, True])
def test_a_replayed_step_is_the_step_run_kernel_by_kernel(gpu_model, all_at_once):
    """Bit for bit, in float32 and bfloat16, for lengths other than the recorded ones."""
    results = []
    for capture in (True, False):
        executor = TorchExecutor(gpu_model, max_num_seqs=9, max_model_len=300)
        generator = torch.Generator().manual_seed(0)
        for memory in (executor.cache.keys, executor.cache.values):
            memory.copy_(torch.randn(memory.shape, generator=generator))
        graphs = DecodeGraphs(gpu_model, executor.cache, executor._kernels, capture)
        if all_at_once:
            graphs.capture_all()
        contexts = [[3], [299, 0, 70], [64] * 9, [7, 250], list(range(100, 108)), [299]]
        results.append([decode_contexts(graphs, each) for each in contexts])
        results[-1].append(executor.cache.keys.float().cpu())
    *steps, keys = zip(*results, strict=True)
    for replayed, eager in steps:
        assert torch.equal(replayed[0], eager[0]) and replayed[1] == eager[1]
    assert torch.equal(*keys)


def test_mixed_batches_are_close_to_pytorch_alone(gpu_model):
    parts = [Part(1, [7, 8, 9], 64), Part(3, [2], 90), Part(0, [1], 5), Part(2, [3, 4], 0)]
    logits = []
    for kernels in (decode_kernels(gpu_model.device), None):
        executor = TorchExecutor(gpu_model, max_num_seqs=4, max_model_len=100)
        for memory in (executor.cache.keys, executor.cache.values):
            memory.copy_(torch.randn(memory.shape, generator=torch.Generator().manual_seed(0)))
        packed = PackedBatch(parts, executor.cache, kernels)
        rows = packed.last_rows([0, 1, 2, 3])
        run = gpu_model.run(packed.token_ids, packed.positions, packed.attend, rows)
        logits.append(run.float())
    similarity = torch.nn.functional.cosine_similarity(*logits, dim=-1)
    assert (similarity > (0.9999 if gpu_model.dtype is torch.float32 else 0.98)).all()


def test_no_forward_waits_for_the_device(gpu_model):
    executor = TorchExecutor(gpu_model, max_num_seqs=4, max_model_len=100)
    parts = [Part(1, [7, 8, 9], 64), Part(3, [2], 90), Part(0, [1], 5), Part(2, [3, 4], 0)]
    executor.warm_up()
    packed = PackedBatch(parts, executor.cache, executor._kernels)
    rows = packed.last_rows([0, 1, 2, 3])
    forward = packed.token_ids, packed.positions, packed.attend, rows
    gpu_model.run(*forward)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gpu_model.run(*forward)
        executor._graphs.run([Part(2, [1], 8), Part(0, [1], 5), Part(1, [1], 5)])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_iteration_that_samples_nothing_is_over_when_it_returns(gpu_model):
    executor = TorchExecutor(gpu_model, max_num_seqs=4, max_model_len=400)
    request, batch = Request(0, 0.0, 350, 4), Batch()
    executor.add(request, [3] * 350)
    batch.chunks.append(Chunk(request, 300, 0))
    assert executor.execute(batch) == {}
    assert torch.cuda.current_stream().query()


@pytest.mark.parametrize("context", [512, 2048])
@pytest.mark.parametrize("num_kv_heads", [8, 2])
def test_bfloat16_chunks_run_flash_attention(num_kv_heads, context):
    """A whole prompt, and a chunk behind others; with grouped heads and without."""
    make = lambda *shape: torch.randn(shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    queries = make(512, 8 + 3, 128)[:, :8].transpose(0, 1)
    memory = make(2, num_kv_heads, 4096, 128)
    with profile(activities=[ProfilerActivity.CPU]) as record:
        out = attention.attend(queries, *memory[:, :, :context])
    names = {event.key for event in record.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention" in names, names
    wide = attention.attend(queries.float(), *memory[:, :, :context].float())
    assert torch.allclose(out.float(), wide, atol=2e-2)


def test_what_does_not_fit_is_refused_before_the_run(gpu_model):
    held = torch.cuda.memory_allocated()
    with pytest.raises(MemoryError, match="GiB of KV cache for 10000000 requests.*cuda.*lower"):
        TorchExecutor(gpu_model, max_num_seqs=10_000_000, max_model_len=512)
    assert torch.cuda.memory_allocated() == held


def test_a_closed_engine_leaves_no_memory_behind(gpu_model):
    serve(new_engine(gpu_model), CROWD)  # makes what stays: tables, cuBLAS's workspaces
    gc.collect()
    held = torch.cuda.memory_allocated()
    engine = new_engine(gpu_model)
    engine.executor.warm_up()
    serve(engine, CROWD)
    engine.close()
    gc.collect()
    assert torch.cuda.memory_allocated() <= held + 2**20
