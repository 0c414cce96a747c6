"""vLLM in production: for now, our schedulers inside it.

Importing this package does not import vllm.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {"CoursekitScheduler": ".vllm_scheduler"}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
