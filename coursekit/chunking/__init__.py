"""Ways to cut a prompt into chunks and to process them."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "AdaptiveChunkedPrefill": ".adaptive",
    "ChunkProgress": ".processor",
    "ChunkedPrefillProcessor": ".processor",
    "PrefillJob": ".processor",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
