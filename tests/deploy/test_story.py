"""The story of production on a real server: load it, believe neither side alone, and pull the plug.

The client's numbers are held against the server's own counters, exactly where both count and
within the network's and the client's time where both measure. Then a server of its own is
killed in the middle of a run.
"""

import os
import signal
import time

import numpy as np
import pytest

from coursekit.deploy import deploy_chunked_prefill
from coursekit.deploy.process import free_port
from coursekit.loadtest import load_test, mixed_lengths
from coursekit.metrics import request_metrics, summarize
from coursekit.monitor.metrics_text import count, gained, histogram, read_metrics
from coursekit.trace_io import read_parquet, write_parquet
from tests.deploy.real_server import needs_vllm

LONG, SHORT = (400, 8), (24, 8)
NUM_REQUESTS, RATE_PER_S = 200, 8.0
KINDS = [LONG, *9 * [SHORT]]  # one in ten is long: some 25 s of a small CPU's time
# Seconds by which the client's mean may exceed the server's: ten times what was seen on two busy
# cores. The server stops its clocks before it writes, the client when it has read.
MORE_S = {"ttft_s": 0.030, "e2e_s": 0.030}
ITL_S = 0.005  # of the gaps it shifts both ends alike; seen: under 0.1 ms
SERVER_NAMES = {
    "ttft_s": "vllm:time_to_first_token_seconds",
    "e2e_s": "vllm:e2e_request_latency_seconds",
    "itl_s": "vllm:inter_token_latency_seconds",
}


@pytest.fixture(scope="module")
def story(server):
    """The load test's result, and what the server's counters gained meanwhile."""
    before = read_metrics(server.metrics_text())
    workload = mixed_lengths(NUM_REQUESTS, KINDS, RATE_PER_S, seed=1)
    result = load_test(server.base_url, workload, timeout_s=120)
    return result, gained(before, read_metrics(server.metrics_text()))


@pytest.fixture
def doomed():
    """A server of this test's own: on a port of its own, so not the one that others use."""
    with deploy_chunked_prefill("mixed_interactive", port=free_port("127.0.0.1")) as running:
        yield running


def means(result) -> dict[str, float]:
    return {row["metric"]: row["mean"] for row in summarize(result.trace)}


def server_mean(gains, metric) -> tuple[float, float]:
    """Mean in seconds, and of how many."""
    found = histogram(gains, SERVER_NAMES[metric])
    return found.total / found.counts[-1], found.counts[-1]


def test_every_request_finishes_and_both_count_the_same(story):
    result, gains = story
    assert result.kinds == {"finished": NUM_REQUESTS}
    assert count(gains, "vllm:request_success_total") == NUM_REQUESTS
    prompt, output = (sum(kind[place] for kind in KINDS) * 20 for place in (0, 1))
    assert count(gains, "vllm:prompt_tokens_total") == prompt
    assert count(gains, "vllm:generation_tokens_total") == output
    requests = result.trace.requests
    assert requests["num_prompt_tokens"].sum() == prompt == 12_320
    assert requests["num_output_tokens"].sum() == output == len(result.trace.chunks["request"])
    assert result.trace.info["num_miscounted"] == 0
    assert not count(gains, "vllm:prefix_cache_hits_total")  # each prompt was new to it


@pytest.mark.parametrize("metric", ["ttft_s", "e2e_s"])
def test_the_client_measures_what_the_server_does_and_the_way_back(story, metric):
    result, gains = story
    server_s, number = server_mean(gains, metric)
    assert number == NUM_REQUESTS
    assert server_s <= means(result)[metric] <= server_s + MORE_S[metric]


def test_gaps_between_tokens_are_those_of_the_server(story):
    result, gains = story
    server_s, number = server_mean(gains, "itl_s")
    assert number == NUM_REQUESTS * (SHORT[1] - 1)
    assert means(result)["itl_s"] == pytest.approx(server_s, abs=ITL_S)


def test_long_prompts_wait_longer_for_their_first_token(story):
    result, _ = story
    ttft_s, classes = request_metrics(result.trace)["ttft_s"], result.trace.requests["priority_class"]
    long_s, short_s = (np.median(ttft_s[classes == name]) for name in ("400:8", "24:8"))
    assert long_s > 1.5 * short_s  # seen: three times
    assert result.classes() == ["24:8", "400:8"] and (classes == "400:8").sum() == 20


def test_the_record_says_where_it_is_from_and_reads_back(story, tmp_path):
    trace = story[0].trace
    back = read_parquet(write_parquet(trace, tmp_path / "run"))
    assert back.label.startswith("live (server at 127.0.0.1:") and "vLLM 0." in back.label
    assert back.info == trace.info
    assert {row["metric"]: row["p99"] for row in summarize(back)} == pytest.approx(
        {row["metric"]: row["p99"] for row in summarize(trace)}, nan_ok=True
    )


@needs_vllm
def test_a_killed_server_leaves_nothing_hanging_and_nothing_lost(doomed, tmp_path):
    """The server's process is killed after the third answer, with requests in flight and to come."""
    ended = []

    def kill_after_three(outcome):
        ended.append(outcome)
        if len(ended) == 3:
            os.kill(doomed.pid, signal.SIGKILL)

    workload = mixed_lengths(60, [LONG, (24, 8), (24, 64)], rate_per_s=20.0, seed=2)
    began = time.monotonic()
    result = load_test(doomed.base_url, workload, timeout_s=120, on_outcome=kill_after_three)
    assert time.monotonic() - began < 60  # seen: 4 s, what the workload lasts
    assert len(result.outcomes) == len(ended) == sum(result.kinds.values()) == 60
    assert set(result.kinds) <= {"finished", "disconnected", "no connection"}
    assert 3 <= result.kinds["finished"] < 30 and result.kinds["no connection"] > 0
    for outcome in result.outcomes:
        assert outcome.is_finished == (outcome.num_output_tokens == outcome.max_tokens)
    cut = [outcome for outcome in result.outcomes if outcome.kind == "disconnected"]
    assert any(0 < outcome.num_output_tokens < outcome.max_tokens for outcome in cut)
    kept = read_parquet(write_parquet(result.trace, tmp_path / "run")).requests
    assert kept["num_output_tokens"].tolist() == [o.num_output_tokens for o in result.outcomes]
    assert (~np.isnan(kept["finished_s"])).sum() == result.kinds["finished"]
