"""Analyzers read measurements and answer a question about prefill and decode."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "BlockingAnalysis": ".blocking_time",
    "BlockingComparison": ".blocking_time",
    "BlockingRun": ".blocking",
    "Ceilings": ".ceilings",
    "CostSource": ".sources",
    "EngineSettings": ".rerun",
    "EngineSource": ".engine_source",
    "Iteration": ".blocking",
    "Knee": ".knee",
    "LiveTorchSource": ".live_torch",
    "MODULE_PROMPT_LENGTHS": ".prefill_decode",
    "PrefillDecodeAnalyzer": ".prefill_decode",
    "compare": ".fidelity",
    "compare_blocking": ".blocking_time",
    "find_knee": ".knee",
    "iteration_errors": ".fidelity",
    "measure_blocking": ".blocking",
    "measure_ceilings": ".ceilings",
    "read_recorded_run": ".recorded_run",
    "request_errors": ".fidelity",
    "rerun_recorded": ".rerun",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
