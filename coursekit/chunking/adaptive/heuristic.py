"""The module's heuristic: thresholds on the number of decodes and on utilisation.

Source: the course module, section 3.2, whose thresholds these are. The module reads the average
latency and ignores it; here it counts. Its weakness remains: its numbers know neither the device
nor what a token costs there, so no target is held but by luck.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from coursekit.chunking.adaptive.state import RanStep, SystemState

LEAST, MOST = 128, 4096  # tokens of a chunk
MANY_DECODES, FEW_DECODES = 10, 3
HIGH_UTILIZATION, LOW_UTILIZATION = 0.9, 0.5
WINDOW = 8  # iterations that an average is over


class ModuleHeuristic:
    """More decodes, fuller iterations or more latency: smaller chunks.

    base_chunk_size: tokens, >= 1. itl_target_s: seconds; while the average latency is over it,
    chunks are halved once more; None ignores the latency, as the module does.
    In an engine, latency is the mean duration of the last iterations, and utilisation the mean
    share of their budgets that they used. Raises ValueError for a size or target out of range.
    """

    def __init__(self, base_chunk_size: int = 512, itl_target_s: float | None = None):
        if base_chunk_size < 1:
            raise ValueError(f"base_chunk_size must be >= 1, got {base_chunk_size}")
        if itl_target_s is not None and not itl_target_s > 0:
            raise ValueError(f"itl_target_s must be > 0 s, or None, got {itl_target_s}")
        self.base_chunk_size = base_chunk_size
        self.itl_target_s = itl_target_s
        self.current_chunk_size = base_chunk_size
        self.recent_latencies: deque[float] = deque(maxlen=WINDOW)
        self.recent_utilizations: deque[float] = deque(maxlen=WINDOW)

    def get_chunk_size(self, system_state: Mapping) -> int:
        """The module's call: tokens of a chunk, in LEAST..MOST.

        system_state: "num_decode_requests" (0 if missing), "gpu_utilization" (0.5), a fraction,
        and "avg_latency" (0.1), seconds.
        """
        num_decodes = system_state.get("num_decode_requests", 0)
        utilization = system_state.get("gpu_utilization", 0.5)
        latency_s = system_state.get("avg_latency", 0.1)
        size = self.base_chunk_size
        if num_decodes > MANY_DECODES:
            size //= 2
        elif num_decodes < FEW_DECODES:
            size *= 2
        if utilization < LOW_UTILIZATION:
            size *= 2
        elif utilization > HIGH_UTILIZATION:
            size //= 2
        if self.itl_target_s is not None and latency_s > self.itl_target_s:
            size //= 2
        self.current_chunk_size = max(LEAST, min(size, MOST))
        return self.current_chunk_size

    def choose(self, state: SystemState) -> int:
        system_state = {"num_decode_requests": state.num_decodes}
        if self.recent_latencies:
            system_state["gpu_utilization"] = _mean(self.recent_utilizations)
            system_state["avg_latency"] = _mean(self.recent_latencies)
        return state.clamp(state.num_decodes + self.get_chunk_size(system_state))

    def observe(self, step: RanStep) -> None:
        self.recent_latencies.append(step.seconds)
        self.recent_utilizations.append(step.num_tokens / step.token_budget)


def _mean(values: deque[float]) -> float:
    return sum(values) / len(values)
