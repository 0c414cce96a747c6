"""coursekit: the tested companion package of "Chunked Prefill, Hands On".

Importing it is instant and loads neither torch, vllm, matplotlib nor ipywidgets:
each public name is fetched from its module when it is first used.
"""

import os

from coursekit.lazy import lazy_exports

__version__ = "0.1.0"

# Threads of torch's CPU kernels spin while they wait for each other, and two programs that
# spin on the same cores slow each other tenfold. A short spin costs a quiet machine little;
# libgomp reads this when torch is first imported, and a value set outside wins.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_HOME_OF = {
    "ChunkTimeline": ".widgets",
    "ChunkedPrefillProcessor": ".chunking",
    "FormulaCost": ".cost",
    "LiveTorchSource": ".analyzers",
    "PrefillDecodeAnalyzer": ".analyzers",
    "load_model": ".models",
    "load_tokenizer": ".models",
    "measure_blocking": ".analyzers",
}

__all__ = ["__version__", *sorted(_HOME_OF)]
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
