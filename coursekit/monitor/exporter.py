"""A monitor's own /metrics, for a Prometheus to scrape: readings as summaries, counts and gauges.

It has a registry of its own, so it neither shows nor disturbs what else the process exports, and
it listens on loopback unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isnan

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric

from coursekit.monitor.alerts import AlertBoard
from coursekit.monitor.estimate import Spread
from coursekit.monitor.reading import Reading

SPREADS = {
    "itl": ("coursekit_inter_token_latency_seconds", "Gaps between tokens of one request"),
    "ttft": ("coursekit_time_to_first_token_seconds", "Arrival to first token"),
    "queue": ("coursekit_queue_time_seconds", "Arrival to first chunk"),
    "iteration_tokens": ("coursekit_iteration_tokens", "Tokens of an iteration"),
}
COUNTS = {
    "num_prefill_tokens": ("coursekit_prefill_tokens", "Prompt tokens computed"),
    "num_output_tokens": ("coursekit_output_tokens", "Tokens of decodes"),
    "num_preemptions": ("coursekit_preemptions", "Requests that lost their KV blocks"),
}
LEVELS = {
    "num_running": ("coursekit_requests_running", "Mean requests running"),
    "num_waiting": ("coursekit_requests_waiting", "Mean requests waiting"),
    "kv_usage": ("coursekit_kv_usage_ratio", "Mean share of the KV blocks in use"),
}


class ReadingCollector:
    """A prometheus_client collector over `read`, asked at every scrape; unknowns are left out.

    board: alerts to export beside it, if any.
    """

    def __init__(self, read: Callable[[], Reading], board: AlertBoard | None = None):
        self._read, self._board = read, board

    def collect(self) -> Iterator[Metric]:
        """The families of one scrape."""
        reading = self._read()
        for name, (called, says) in SPREADS.items():
            yield _summary(called, says, getattr(reading, name))
        for kind, names in ((CounterMetricFamily, COUNTS), (GaugeMetricFamily, LEVELS)):
            for name, (called, says) in names.items():
                if not isnan(value := getattr(reading, name)):
                    yield kind(called, says, value=value)
        if self._board is not None:
            family = GaugeMetricFamily("coursekit_alert_raised", "1 if raised", labels=["alert"])
            for alert in self._board.alerts:
                family.add_metric([alert.rule.name], float(alert.is_raised))
            yield family


def _summary(called: str, says: str, spread: Spread) -> Metric:
    total = spread.mean * spread.n if spread.n else 0.0
    family = SummaryMetricFamily(called, says, count_value=spread.n, sum_value=total)
    if spread.n:
        for quantile, estimate in (("0.5", spread.p50), ("0.95", spread.p95), ("0.99", spread.p99)):
            family.add_sample(called, {"quantile": quantile}, estimate.value)
    return family


class Exporter:
    """An HTTP server of metrics at `url`; `stop` ends it, and so does the end of a `with`."""

    def __init__(self, server, thread, host: str):
        self._server, self._thread = server, thread
        self.port: int = server.server_port
        self.url = f"http://{host}:{self.port}/metrics"

    def stop(self) -> None:
        """Stop listening. Harmless when repeated."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def start_exporter(
    monitor, port: int = 0, host: str = "127.0.0.1", board: AlertBoard | None = None
) -> Exporter:
    """Export `monitor.reading()` (a monitor that follows an engine, which only grows) at `port`.

    port: 0 takes a free one. Raises OSError if it is taken.
    """
    registry = CollectorRegistry()
    registry.register(ReadingCollector(monitor.reading, board))
    server, thread = start_http_server(port, addr=host, registry=registry)
    return Exporter(server, thread, host)
