"""Analyzers read measurements and answer a question about prefill and decode."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "BlockingRun": ".blocking",
    "Ceilings": ".ceilings",
    "Iteration": ".blocking",
    "LiveTorchSource": ".live_torch",
    "MODULE_PROMPT_LENGTHS": ".prefill_decode",
    "PrefillDecodeAnalyzer": ".prefill_decode",
    "measure_blocking": ".blocking",
    "measure_ceilings": ".ceilings",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
