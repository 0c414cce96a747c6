"""KV caches: what a request's past costs in memory."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "BlockCounter": ".block_counter",
    "ContiguousKVCache": ".contiguous",
    "PrefixCachingBlocks": ".prefix_cache",
    "SlottedKVCache": ".slotted",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
