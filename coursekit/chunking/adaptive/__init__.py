"""Chunked prefill under control: who chooses the token budget of the next iteration, and how.

A controller sees a `SystemState` and returns a budget; it knows of no scheduler. A scheduler is
driven by `AdaptiveChunkedPrefill`, which knows of no particular controller.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "AdaptiveChunkedPrefill": ".driver",
    "Aimd": ".aimd",
    "CONTROLLERS": ".controllers",
    "CostInverse": ".cost_inverse",
    "FixedBudget": ".fixed",
    "ModuleHeuristic": ".heuristic",
    "Prompt": ".state",
    "RanStep": ".state",
    "SystemState": ".state",
    "drive": ".controllers",
    "make_controller": ".controllers",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
