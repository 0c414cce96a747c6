"""Live engines: the same loop on a real clock, on our model or inside vLLM.

Both take requests while they run, step by step, with a token budget that can be turned
between any two steps, and leave the same `Trace` as a simulation.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "LiveEngine": ".base",
    "Step": ".base",
    "TorchEngine": ".torch_engine",
    "VllmEngine": ".vllm_engine",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
