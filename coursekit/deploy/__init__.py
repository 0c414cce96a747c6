"""vLLM in production: configured, served, and with our schedulers inside it.

Importing this package does not import vllm.
"""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "AdaptiveCoursekitScheduler": ".vllm_scheduler",
    "ChunkedPrefillConfig": ".settings",
    "CoursekitScheduler": ".vllm_scheduler",
    "PRESETS": ".presets",
    "Recommendation": ".recommendation",
    "RunningServer": ".server",
    "ServerFailed": ".failure",
    "deploy_chunked_prefill": ".server",
    "get_chunked_prefill_config": ".presets",
    "recommend": ".recommender",
    "render": ".configure",
    "validate_all": ".validate",
    "validate_config": ".validate",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
