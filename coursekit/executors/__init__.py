"""Executors run a batch and say how long it took: on a computed clock or on a real one."""

from coursekit.lazy import lazy_exports

_HOME_OF = {"SimulatedExecutor": ".simulated", "TorchExecutor": ".torch_model"}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
