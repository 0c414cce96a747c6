"""Optimizers search settings: chunk sizes and budgets under an SLO, capacity, sweeps of many runs."""

from coursekit.lazy import lazy_exports

_HOME_OF: dict[str, str] = {
    "ChunkSizeOptimizer": ".chunk_size",
    "Answer": ".answer",
    "RunSlo": ".objective",
    "find_optimal_chunk_size": ".one_prompt",
    "measure_chunk_performance": ".one_prompt",
    "pareto_front": ".pareto",
    "sweep": ".sweeps",
    "Outcome": ".sweeps",
    "open_executor": ".sweeps",
    "Processes": ".processes",
    "find_capacity": ".capacity",
    "capacity_of": ".capacity",
    "Capacity": ".capacity",
    "CapacityRule": ".rules",
    "Limit": ".rules",
    "sarathi_rule": ".rules",
    "VIDUR_RULE": ".rules",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
