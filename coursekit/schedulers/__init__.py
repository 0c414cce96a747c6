"""Scheduling policies, one per file: each decides what the next iteration runs."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "DecodeFirst": ".decode_first",
    "DecodeGroup": ".decode_group",
    "InterleavedPrefillDecodeScheduler": ".interleaved",
    "OrcaMixed": ".orca_mixed",
    "PrefillFirst": ".prefill_first",
    "PriorityAwareChunking": ".priority_aware",
    "PriorityTokenBudget": ".priority_token_budget",
    "Scheduler": ".base",
    "StallFree": ".stall_free",
    "TokenBudget": ".token_budget",
}

# What the command line and widgets call them.
NAMES = {
    "decode-first": "DecodeFirst",
    "interleaved": "InterleavedPrefillDecodeScheduler",
    "orca-mixed": "OrcaMixed",
    "prefill-first": "PrefillFirst",
    "priority-aware": "PriorityAwareChunking",
    "priority-token-budget": "PriorityTokenBudget",
    "stall-free": "StallFree",
    "token-budget": "TokenBudget",
}

__all__ = ["NAMES", *sorted(_HOME_OF)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
