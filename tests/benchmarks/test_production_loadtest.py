"""The comparison with vLLM's own client: a deviation is seen, and whose it is."""

import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark(course_root):
    sys.path.insert(0, str(course_root / "benchmarks"))
    try:
        import production_loadtest
    finally:
        sys.path.pop(0)
    return production_loadtest


@pytest.mark.parametrize("factor, holds", [(1.0, True), (1.04, True), (1.06, False), (0.94, False)])
def test_a_deviation_beyond_the_limit_is_a_miss(benchmark, factor, holds):
    values = np.linspace(0.1, 0.3, 21)
    found = {"vllm": {"TTFT": [values, values]}, "ours": {"TTFT": [factor * values, factor * values]}}
    for statistic in (np.mean, np.median):
        row = benchmark.compared("x", found, "TTFT", statistic, "n")
        assert row.holds is holds and row.ratio == pytest.approx(factor)
        assert row.note == "n; rounds apart: vLLM's 0.0%, ours 0.0%"


def test_held_against_the_server_a_slower_server_is_no_deviation(benchmark):
    from coursekit.monitor.metrics_text import Histogram

    values = np.full(10, 0.1)
    found = {"vllm": {"ITL": [values]}, "ours": {"ITL": [1.5 * values]}}
    own = {"vllm": {"ITL": [Histogram((np.inf,), (10.0,), 1.0)]}}
    own["ours"] = {"ITL": [Histogram((np.inf,), (10.0,), 1.5)]}
    row = benchmark.beside_server("x", found, own, "ITL")
    assert row.holds and row.ours == pytest.approx(1.0) == row.reference
    own["ours"] = own["vllm"]  # the server was as fast, so it is our client
    assert not benchmark.beside_server("x", found, own, "ITL").holds


def test_vllms_details_are_read_as_vllm_reads_them(benchmark):
    details = {
        "ttfts": [0.1, 0.3], "itls": [[0.01, 0.03], []], "output_lens": [3, 1],
        "mean_ttft_ms": 200.0, "mean_tpot_ms": 20.0, "mean_itl_ms": 20.0,
    }  # fmt: skip
    found = benchmark.bench_metrics(details)
    assert found["TPOT"].tolist() == [0.02] and found["ITL"].tolist() == [0.01, 0.03]
    with pytest.raises(SystemExit, match="mean TTFT"):
        benchmark.bench_metrics({**details, "mean_ttft_ms": 150.0})


def test_the_drawn_workload_is_the_same_for_both_clients(benchmark):
    first, second = benchmark.drawn_workload(), benchmark.drawn_workload()
    assert len(first) == benchmark.NUM_REQUESTS
    assert (first.arrival_s == second.arrival_s).all()
    assert (first.num_prompt_tokens == second.num_prompt_tokens).all()
    low, high = benchmark.PROMPTS
    assert low <= first.num_prompt_tokens.min() and first.num_prompt_tokens.max() <= high
