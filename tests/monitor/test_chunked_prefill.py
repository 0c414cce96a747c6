"""The monitor: records, summary, report, threads, and the same from a live engine and from its record."""

import math
import subprocess
import sys
import threading

import numpy as np
import pytest

from coursekit import ChunkedPrefillMonitor
from coursekit.cost import RooflineCost
from coursekit.itl import itls
from coursekit.kv_cache import BlockCounter
from coursekit.live import TorchEngine
from coursekit.metrics import summarize
from coursekit.schedulers import TokenBudget
from coursekit.simulate import simulate
from coursekit.workload import Workload


@pytest.fixture(scope="module")
def trace():
    """60 requests, long and short, in chunks of at most 256 tokens."""
    lengths = np.resize([1000, 60, 300], 60)
    workload = Workload(np.arange(60) * 0.05, lengths, np.resize([20, 40], 60))
    return simulate(workload, token_budget=256, max_num_seqs=16)


# --- Records ---


def test_the_summary_of_the_modules_calls():
    monitor = ChunkedPrefillMonitor()
    monitor.record_prefill(4, 0.3, 0.05)
    monitor.record_prefill(2, 0.1, 0.01)
    for _ in range(100):
        monitor.record_decode(0.02)
    summary = monitor.get_summary()
    assert summary["total_chunks_processed"] == 6
    assert summary["avg_chunks_per_request"] == 3
    assert summary["avg_prefill_latency_s"] == pytest.approx(0.2)
    assert summary["max_blocking_time_s"] == 0.05
    assert summary["p95_decode_latency_s"] == pytest.approx(0.02, rel=0.01)


def test_a_decode_step_is_not_a_request():
    monitor = ChunkedPrefillMonitor()
    monitor.record_prefill(1, 0.1)
    monitor.record_many(np.full(50, 0.02))
    assert monitor.get_summary()["total_requests"] == 1
    assert monitor.get_summary()["total_decode_steps"] == 50


def test_blocking_that_is_not_known_is_not_zero():
    monitor = ChunkedPrefillMonitor()
    monitor.record_prefill(1, 0.1)
    assert "avg_blocking_time_s" not in monitor.get_summary()


def test_a_report_of_nothing_says_so(capsys):
    monitor = ChunkedPrefillMonitor()
    monitor.print_report()
    assert "Nothing was recorded" in capsys.readouterr().out
    assert monitor.get_summary()["total_requests"] == 0


def test_the_report_shows_milliseconds_and_the_error(capsys):
    monitor = ChunkedPrefillMonitor()
    monitor.record_prefill(4, 0.25, 0.05)
    monitor.print_report()
    out = capsys.readouterr().out
    assert "1 prefills in 4 chunks" in out and "avg 250.0" in out and "within 0.01" in out


def test_reset_forgets_everything():
    monitor = ChunkedPrefillMonitor()
    monitor.record_prefill(4, 0.25, 0.05)
    monitor.record_iterations([10], [2], [0.1], running=[3])
    monitor.reset()
    assert monitor.get_summary() == ChunkedPrefillMonitor().get_summary()
    assert math.isnan(monitor.reading().num_running)


@pytest.mark.parametrize(
    "record",
    [
        lambda monitor: monitor.record_prefill(0, 0.1),
        lambda monitor: monitor.record_prefill(1, -0.1, 0.1),
        lambda monitor: monitor.record_prefill(1, 0.1, math.nan),
        lambda monitor: monitor.record_decode(math.inf),
        lambda monitor: monitor.record_many([0.1, -1]),
        lambda monitor: monitor.record_prefills([1, 1], [0.1]),
        lambda monitor: monitor.record_prefills([1, 0], [0.1, 0.1]),
        lambda monitor: monitor.record_prefills([1, 1], [0.1, 0.1], [0.1]),
        lambda monitor: monitor.record_prefills([1, 1], [0.1, -0.1], [0.1, 0.1]),
        lambda monitor: monitor.record_request("speed", [1]),
    ],
)
def test_a_bad_record_is_refused_and_not_counted(record):
    monitor = ChunkedPrefillMonitor()
    with pytest.raises(ValueError):
        record(monitor)
    assert monitor.get_summary() == ChunkedPrefillMonitor().get_summary()


def test_no_record_of_many_threads_is_lost():
    monitor, each, was = ChunkedPrefillMonitor(), 20_000, sys.getswitchinterval()

    def record():
        for number in range(each):
            monitor.record_decode(0.001 * (number % 7))
            if number % 10 == 0:
                monitor.record_prefill(3, 0.1, 0.01)
                monitor.get_summary()

    threads = [threading.Thread(target=record) for _ in range(4)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(was)
    summary = monitor.get_summary()
    assert summary["total_decode_steps"] == 4 * each
    assert summary["total_chunks_processed"] == 3 * summary["total_requests"] == 3 * 4 * each / 10
    assert summary["avg_decode_latency_s"] == pytest.approx(np.mean(np.arange(each) % 7) * 1e-3)


def sizes(thing, seen=None) -> int:
    """Bytes of an object and all that it holds."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, type) or callable(thing):
        return 0
    seen.add(id(thing))
    parts = []
    if isinstance(thing, dict):
        parts = [*thing.keys(), *thing.values()]
    elif isinstance(thing, (list, tuple, set)):
        parts = list(thing)
    elif hasattr(thing, "__dict__"):
        parts = list(vars(thing).values())
    return sys.getsizeof(thing) + sum(sizes(part, seen) for part in parts)


def test_the_memory_after_a_million_records_is_that_after_a_hundred_thousand():
    random, monitor, found = np.random.default_rng(0), ChunkedPrefillMonitor(), []
    for many in (100_000, 900_000):
        for value in random.lognormal(-3, 1, many // 10).tolist():
            monitor.record_decode(value)
        monitor.record_many(random.lognormal(-3, 1, many - many // 10))
        found.append(sizes(monitor))
    assert found[1] <= 1.2 * found[0] and found[1] < 2**20


def test_importing_the_package_loads_neither_the_sketch_nor_the_client():
    code = "import sys, coursekit.monitor; print({'ddsketch', 'prometheus_client', 'numpy'} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"


# --- From a record ---


def test_a_record_gives_the_metrics_of_the_package(trace):
    monitor = ChunkedPrefillMonitor()
    monitor.read(trace)
    reading, rows = monitor.reading(), {row["metric"]: row for row in summarize(trace)}
    for spread, name in ((reading.itl, "itl_s"), (reading.ttft, "ttft_s"), (reading.queue, "scheduling_delay_s")):
        assert spread.n == rows[name]["n"]
        assert spread.mean == pytest.approx(rows[name]["mean"])
        assert spread.largest.value == pytest.approx(rows[name]["max"])
    values, weights = itls(trace)
    truth = np.percentile(np.repeat(values, weights), 99, method="lower")
    assert reading.itl.p99.low <= truth <= reading.itl.p99.high


def test_the_chunks_of_a_record_are_counted(trace):
    monitor = ChunkedPrefillMonitor()
    monitor.read(trace)
    prompt_chunks = trace.chunks["context"] < trace.requests["num_prompt_tokens"][trace.chunks["request"]]
    assert monitor.get_summary()["total_chunks_processed"] == int(prompt_chunks.sum())
    assert monitor.get_summary()["avg_chunks_per_request"] > 2
    assert monitor.reading().num_prefill_tokens == trace.requests["num_prompt_tokens"].sum()


def test_the_blocking_of_a_record_is_what_iterations_took_beyond_their_decodes(trace):
    monitor, cost = ChunkedPrefillMonitor(), RooflineCost("a100", "llama-2-7b")
    monitor.read(trace, cost)
    from coursekit.analyzers.decode_baseline import decode_baseline

    rows = trace.iterations
    baseline_s, _ = decode_baseline(trace, cost)
    mixed = (rows["num_decode_tokens"] > 0) & (rows["num_prefill_tokens"] > 0)
    longer_s = (rows["end_s"] - rows["start_s"] - baseline_s)[mixed].sum()
    summary = monitor.get_summary()
    assert summary["avg_blocking_time_s"] * summary["total_requests"] == pytest.approx(longer_s)
    assert longer_s > 0


# --- From a live engine ---


@pytest.mark.parametrize("num_blocks", [400, 14], ids=["roomy", "preempting"])
def test_following_an_engine_counts_what_its_record_says(tiny_model, num_blocks):
    scheduler = TokenBudget(token_budget=16, max_num_seqs=6, kv=BlockCounter(num_blocks, 4))
    engine = TorchEngine(tiny_model, scheduler, max_model_len=64)
    workload = Workload([0.0] * 10, [40, 3] * 5, [6, 9, 1, 12, 5] * 2)
    followed, read = ChunkedPrefillMonitor(), ChunkedPrefillMonitor()
    trace = engine.run(workload.source(), on_step=followed.follow(engine))
    read.read(trace)
    live, recorded = followed.get_summary(), read.get_summary()
    assert (trace.iterations["num_preempted"].sum() > 0) == (num_blocks == 14)
    for name in live:
        if "blocking" not in name:  # the feed knows the baseline only so far, the record all of it
            assert live[name] == pytest.approx(recorded[name], rel=1e-6, abs=1e-9), name
    ours, theirs = followed.reading(), read.reading()
    for name in ("num_prefill_tokens", "num_output_tokens", "num_preemptions", "num_kv_tokens"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.iteration_tokens.mean == pytest.approx(theirs.iteration_tokens.mean)
    assert ours.span_s == pytest.approx(theirs.span_s)
    assert 0 < ours.kv_usage <= ours.kv_usage_max <= 1


def test_the_feed_keeps_nothing_of_requests_that_are_gone(tiny_model):
    scheduler = TokenBudget(token_budget=16, max_num_seqs=6, kv=BlockCounter(400, 4))
    engine = TorchEngine(tiny_model, scheduler, max_model_len=64)
    monitor = ChunkedPrefillMonitor()
    feed = monitor.follow(engine)
    indices = [engine.submit(30, 8) for _ in range(4)]
    for _ in range(3):
        feed(engine.step())
    engine.cancel(indices[0])
    engine.cancel(indices[3])
    while engine.has_requests:
        feed(engine.step())
    assert not feed._prefills and not feed._last_token_s


