"""vLLM's own metrics: names (`vllm/v1/metrics/loggers.py` of 0.32), and readings made of them.

A window keeps what the counters gained between looks of the last minutes, so that a reading is
about now and not about the server's whole life.

`vllm:iteration_tokens_total` counts a prompt whole, with the iteration that ends it
(`IterationStats` of `vllm/v1/metrics/stats.py`): chunks are not in it, and with a budget of 512 it
shows iterations of over 512. So how full they are is worked out from sums, in `advice`.
"""

from __future__ import annotations

from collections import deque
from math import nan

from coursekit.monitor.metrics_text import (
    Scrape, Series, add_up, count, gained, has_restarted, histogram, spread_of,
)  # fmt: skip
from coursekit.monitor.reading import Reading

SPREADS = {
    "itl": "vllm:inter_token_latency_seconds",
    "ttft": "vllm:time_to_first_token_seconds",
    "queue": "vllm:request_queue_time_seconds",
    "iteration_tokens": "vllm:iteration_tokens_total",
    "prompt_length": "vllm:request_prompt_tokens",
    "output_length": "vllm:request_generation_tokens",
}
COUNTS = {
    "num_output_tokens": "vllm:generation_tokens_total",
    "num_preemptions": "vllm:num_preemptions_total",
}
PROMPT_TOKENS, COMPUTED = "vllm:prompt_tokens_by_source_total", ("source", "local_compute")
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
KV_USAGE, CACHE_CONFIG = "vllm:kv_cache_usage_perc", "vllm:cache_config_info"


class Window:
    """Looks at one server over the last `window_s` seconds; at least the last two are kept.

    max_looks bounds the memory whatever the interval.
    """

    def __init__(self, window_s: float = 300.0, max_looks: int = 720):
        if not window_s > 0:
            raise ValueError(f"window_s must be > 0 s, got {window_s}")
        self.window_s = window_s
        # levels, seconds since the look before, what was gained in them, and whether it restarted
        self._gains: deque[tuple[Scrape, float, dict, bool]] = deque(maxlen=max_looks)
        self._last: Scrape | None = None

    def add(self, scrape: Scrape) -> None:
        """Take one more look, later than those before, or ValueError."""
        last, self._last = self._last, scrape
        if last is None:
            return
        if scrape.at_s <= last.at_s:
            raise ValueError(f"looks must follow each other, got {scrape.at_s} after {last.at_s} s")
        span_s = scrape.at_s - last.at_s
        thin = Scrape(scrape.at_s, levels=_levels(scrape))
        self._gains.append((thin, span_s, gained(last, scrape), has_restarted(last, scrape)))
        while self._gains[0][0].at_s < scrape.at_s - self.window_s:
            self._gains.popleft()

    @property
    def num_looks(self) -> int:
        """Looks since the first whose gains are in the window."""
        return len(self._gains)

    def reading(self, source: str, is_up: bool = True) -> Reading:
        """What the server did within the window; nothing yet before the second look."""
        if self._last is None:
            return Reading(source, 0.0, is_up=is_up)
        gains = add_up(gain for _, _, gain, _ in self._gains)
        looks = [scrape for scrape, *_ in self._gains] or [self._last]
        return Reading(
            source, sum(span_s for _, span_s, _, _ in self._gains),
            **{name: spread_of(histogram(gains, called)) for name, called in SPREADS.items()},
            **{name: count(gains, called) for name, called in COUNTS.items()},
            num_prefill_tokens=count(gains, PROMPT_TOKENS, COMPUTED),
            num_running=_mean([look.level(RUNNING) for look in looks]),
            num_waiting=_mean([look.level(WAITING) for look in looks]),
            kv_usage=_mean([look.level(KV_USAGE, max) for look in looks]),
            kv_usage_max=max(look.level(KV_USAGE, max) for look in looks),
            num_kv_tokens=_num_kv_tokens(self._last),
            num_restarts=sum(restarted for *_, restarted in self._gains), is_up=is_up,
        )  # fmt: skip


def _levels(scrape: Scrape) -> dict[Series, float]:
    """The gauges that readings are made of."""
    kept = (RUNNING, WAITING, KV_USAGE)
    return {series: value for series, value in scrape.levels.items() if series[0] in kept}


def _num_kv_tokens(scrape: Scrape) -> float:
    """Tokens that the KV cache of one engine holds, as its configuration says."""
    blocks = scrape.label(CACHE_CONFIG, "num_gpu_blocks")
    size = scrape.label(CACHE_CONFIG, "block_size")
    try:
        return float(blocks) * float(size)
    except (TypeError, ValueError):  # absent, or "None"
        return nan


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else nan
