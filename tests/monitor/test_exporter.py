"""The monitor's own /metrics: what it saw, in Prometheus' format, on loopback, until it is stopped."""

import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coursekit import ChunkedPrefillMonitor
from coursekit.monitor import AlertBoard, default_rules, start_exporter


def samples(url: str) -> dict:
    with urllib.request.urlopen(url, timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


@pytest.fixture
def monitor():
    monitor = ChunkedPrefillMonitor()
    monitor.record_many(np.linspace(0.01, 0.1, 1000))
    monitor.record_iterations([100], [7], [0.1], 2, running=[5], waiting=[1], kv_usage=[0.25])
    return monitor


def test_what_the_monitor_saw_is_exported(monitor):
    board = AlertBoard(default_rules())
    with start_exporter(monitor, board=board) as exporter:
        found = samples(exporter.url)
        monitor.record_iterations([50], [7], [0.1])
        later = samples(exporter.url)
    assert found["coursekit_inter_token_latency_seconds_count",] == 1000
    assert found["coursekit_inter_token_latency_seconds_sum",] == pytest.approx(55)
    assert found["coursekit_inter_token_latency_seconds", "0.99"] == pytest.approx(0.0991, rel=0.011)
    assert found["coursekit_prefill_tokens_total",] == 100
    assert later["coursekit_prefill_tokens_total",] == 150
    assert found["coursekit_preemptions_total",] == 2
    assert found["coursekit_kv_usage_ratio",] == 0.25
    assert found["coursekit_alert_raised", "VllmDown"] == 0


def test_what_is_not_known_is_left_out():
    with start_exporter(ChunkedPrefillMonitor()) as exporter:
        found = samples(exporter.url)
    assert ("coursekit_kv_usage_ratio",) not in found and ("coursekit_prefill_tokens_total",) not in found
    assert found["coursekit_inter_token_latency_seconds_count",] == 0


def test_it_does_not_show_what_else_the_process_exports(monitor):
    with start_exporter(monitor) as exporter:
        assert all(name[0].startswith("coursekit_") for name in samples(exporter.url))


def test_two_exporters_live_side_by_side(monitor):
    with start_exporter(monitor) as one, start_exporter(ChunkedPrefillMonitor()) as other:
        assert one.port != other.port
        assert samples(one.url) != samples(other.url)


def test_it_listens_on_loopback_only_and_frees_its_port(monitor):
    exporter = start_exporter(monitor)
    assert exporter._server.server_address[0] == "127.0.0.1"
    exporter.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(exporter.url, timeout=2)
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", exporter.port))
