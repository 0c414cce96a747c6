"""What was seen of a server in a stretch of time, from wherever: alerts and advice read only this.

A monitor fed by an engine makes one, and so does a scraper of vLLM's /metrics. What the source
does not tell is None or nan, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan

from coursekit.monitor.estimate import NOTHING_SEEN, Spread


@dataclass(frozen=True, slots=True)
class Reading:
    """source: where the numbers are from; span_s: seconds that they cover.

    itl, ttft, queue: seconds, over tokens for ITL and over requests for the others;
    iteration_tokens: tokens of an iteration; prompt_length, output_length: tokens of a request.
    num_running, num_waiting: mean requests; kv_usage, kv_usage_max: share of the KV blocks in use.
    num_kv_tokens: what all blocks hold together. num_restarts: of the server, within the span.
    """

    source: str
    span_s: float
    itl: Spread = NOTHING_SEEN
    ttft: Spread = NOTHING_SEEN
    queue: Spread = NOTHING_SEEN
    iteration_tokens: Spread = NOTHING_SEEN
    prompt_length: Spread = NOTHING_SEEN
    output_length: Spread = NOTHING_SEEN
    num_prefill_tokens: float = nan
    num_output_tokens: float = nan
    num_preemptions: float = nan
    num_running: float = nan
    num_waiting: float = nan
    kv_usage: float = nan
    kv_usage_max: float = nan
    num_kv_tokens: float = nan
    num_restarts: int = 0
    is_up: bool = True

    @property
    def preemptions_per_s(self) -> float:
        """nan if the source does not count them, or covers no time."""
        return self._per_s(self.num_preemptions)

    @property
    def output_tokens_per_s(self) -> float:
        return self._per_s(self.num_output_tokens)

    @property
    def prefill_tokens_per_s(self) -> float:
        return self._per_s(self.num_prefill_tokens)

    @property
    def prefill_share(self) -> float:
        """Prefill tokens of all tokens that were computed; nan if unknown."""
        tokens = self.num_prefill_tokens + self.num_output_tokens
        return self.num_prefill_tokens / tokens if tokens > 0 else nan

    def _per_s(self, count: float) -> float:
        return count / self.span_s if self.span_s > 0 else nan
