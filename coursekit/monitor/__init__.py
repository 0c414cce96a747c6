"""Watching a server: records in constant memory, vLLM's own metrics, alerts, and what to turn.

Importing this package loads neither prometheus_client nor ddsketch.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "Advice": ".advice",
    "AlertBoard": ".alerts",
    "AlertRule": ".alerts",
    "ChunkedPrefillMonitor": ".chunked_prefill",
    "Counsel": ".advice",
    "Estimate": ".estimate",
    "MetricsScraper": ".scraper",
    "QuantileSketch": ".sketch",
    "Reading": ".reading",
    "ServerSettings": ".advice",
    "Spread": ".estimate",
    "advise": ".advice",
    "default_rules": ".alerts",
    "describe_counsel": ".report",
    "describe_reading": ".report",
    "read_metrics": ".metrics_text",
    "start_exporter": ".exporter",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
