"""coursekit: the tested companion package of "Chunked Prefill, Hands On".

Importing it is instant and loads neither torch, vllm, matplotlib nor ipywidgets:
each public name is fetched from its module when it is first used.
"""

import os

from coursekit.lazy import lazy_exports

__version__ = "0.1.0"

# Threads of torch's CPU kernels spin while they wait for each other, and two programs that
# spin on the same cores slow each other tenfold. A short spin costs a quiet machine a fifth of
# a small batch's time, and two programs a third of theirs; libgomp reads this when torch is first
# imported, and a value set outside wins.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

_HOME_OF = {
    "AdaptiveChunkedPrefill": ".chunking",
    "BlockingAnalysis": ".analyzers",
    "CalibratedCost": ".cost",
    "ChunkSizeOptimizer": ".optimizers",
    "ChunkTimeline": ".widgets",
    "ChunkTuner": ".widgets",
    "ChunkedPrefillMonitor": ".monitor",
    "ChunkedPrefillProcessor": ".chunking",
    "Engine": ".engine",
    "FormulaCost": ".cost",
    "InterleavedPrefillDecodeScheduler": ".schedulers",
    "LiveTorchSource": ".analyzers",
    "PrefillDecodeAnalyzer": ".analyzers",
    "PriorityAwareChunking": ".schedulers",
    "Request": ".request",
    "RooflineCost": ".cost",
    "SimulatedExecutor": ".executors",
    "StallFree": ".schedulers",
    "TimelineExplorer": ".widgets",
    "TokenBudget": ".schedulers",
    "TorchEngine": ".live",
    "TorchExecutor": ".executors",
    "Trace": ".trace",
    "TradeoffExplorer": ".widgets",
    "VllmEngine": ".live",
    "Workload": ".workload",
    "deploy_chunked_prefill": ".deploy",
    "find_optimal_chunk_size": ".optimizers",
    "get_chunked_prefill_config": ".deploy",
    "load_model": ".models",
    "load_test": ".loadtest",
    "load_tokenizer": ".models",
    "measure_blocking": ".analyzers",
}

__all__ = ["__version__", *sorted(_HOME_OF)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
