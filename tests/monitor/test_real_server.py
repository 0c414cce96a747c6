"""The real vLLM server, scraped by our scraper and by a real Prometheus: the same numbers from both."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from coursekit import cli
from coursekit.monitor import MetricsScraper, read_metrics
from coursekit.monitor.metrics_text import bucket_percentile, count, histogram
from coursekit.monitor.vllm_metrics import CACHE_CONFIG, KV_USAGE, PROMPT_TOKENS, RUNNING, SPREADS, WAITING
from tests.deploy.real_server import needs_vllm
from tests.monitor.prom import Prometheus, dashboard_expressions, metric_names, needs_prometheus, rules

pytestmark = needs_vllm
NUM_REQUESTS, MAX_TOKENS = 6, 16


def complete(server, number: int) -> None:
    body = {"model": server.model, "prompt": f"Story {number}: " + "once more " * 40 * (1 + number % 3),
            "max_tokens": MAX_TOKENS, "ignore_eos": True}  # fmt: skip
    asked = urllib.request.Request(
        f"{server.base_url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=120) as answer:
        assert json.load(answer)["usage"]["completion_tokens"] == MAX_TOKENS


@pytest.fixture(scope="module")
def looked_at(server):
    """A scraper that looked before and after some load."""
    scraper = MetricsScraper(server.base_url, interval_s=1.0)
    assert scraper.scrape_once(), scraper.last_error
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        list(pool.map(lambda number: complete(server, number), range(NUM_REQUESTS)))
    assert scraper.scrape_once(), scraper.last_error
    return scraper


@pytest.fixture(scope="module")
def prometheus(server, looked_at, tmp_path_factory):
    """A Prometheus that has scraped the server a few times."""
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), server.base_url.removeprefix("http://"))
    try:
        running.wait_until('count_over_time(up{job="vllm"}[1m])', lambda values: values and values[0] >= 4)
        yield running
    finally:
        running.stop()


def test_the_scraper_sees_the_tokens_that_were_generated(looked_at):
    reading = looked_at.reading()
    assert reading.num_output_tokens == NUM_REQUESTS * MAX_TOKENS
    assert reading.itl.n == NUM_REQUESTS * (MAX_TOKENS - 1)
    assert reading.ttft.n == reading.queue.n == NUM_REQUESTS
    assert 0 < reading.itl.p99.low <= reading.itl.p99.value <= reading.itl.p99.high
    assert reading.num_kv_tokens > 1000 and reading.num_restarts == 0 and reading.is_up


def test_every_metric_that_the_monitor_reads_is_there(server):
    scrape = read_metrics(server.metrics_text())
    names = {name for name, _ in (*scrape.counts, *scrape.levels)}
    assert {f"{name}_bucket" for name in SPREADS.values()} <= names
    assert {PROMPT_TOKENS, RUNNING, WAITING, KV_USAGE, CACHE_CONFIG} <= names


def test_every_metric_of_the_rules_and_the_dashboard_is_there(server):
    scrape = read_metrics(server.metrics_text())
    names = {name for name, _ in (*scrape.counts, *scrape.levels)}
    asked = set().union(*map(metric_names, [*dashboard_expressions(), *(rule["expr"] for rule in rules())]))
    assert len(asked) > 10 and asked <= names, asked - names
    assert not {"vllm:no_such_metric"} <= names


@needs_prometheus
def test_prometheus_has_the_counters_of_the_page(server, prometheus):
    page = read_metrics(server.metrics_text())
    for name in ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:inter_token_latency_seconds_count"):
        assert count(page.counts, name) > 0
        assert prometheus.query(f"sum({name})") == [count(page.counts, name)]


@needs_prometheus
@pytest.mark.parametrize("percent", [50, 95, 99])
def test_our_percentiles_of_buckets_are_those_of_prometheus(server, prometheus, percent):
    found = histogram(read_metrics(server.metrics_text()).counts, SPREADS["itl"])
    (theirs,) = prometheus.query(f"histogram_quantile({percent / 100}, sum by (le) ({SPREADS['itl']}_bucket))")
    assert bucket_percentile(found, percent).value == pytest.approx(theirs)


@needs_prometheus
def test_every_expression_of_the_dashboard_runs(prometheus):
    answers = [prometheus.query(expression) for expression in dashboard_expressions()]
    assert sum(bool(values) for values in answers) >= 0.8 * len(answers)


@needs_prometheus
def test_prometheus_runs_the_rules_and_none_of_them_fails(prometheus):
    (group,) = prometheus.get("rules")["groups"]
    assert len(group["rules"]) == 6
    assert not [rule["lastError"] for rule in group["rules"] if rule.get("lastError")]
    assert {target["health"] for target in prometheus.get("targets")["activeTargets"]} == {"up"}


@needs_prometheus
def test_a_server_that_is_gone_raises_its_alert(tmp_path):
    running = Prometheus(tmp_path, "127.0.0.1:9")  # the discard port: nobody listens
    try:
        running.wait_until('ALERTS{alertname="VllmDown", alertstate="pending"}', bool)
    finally:
        running.stop()


def test_the_command_reports_on_the_real_server(server, capsys):
    assert cli.main(["monitor", "--url", server.base_url, "--interval", "0.5", "--once"]) == 0
    out = capsys.readouterr().out
    assert f"vLLM, {server.base_url}/metrics" in out and "KV usage" in out
    assert "a P99 needs 300: no advice" in out
