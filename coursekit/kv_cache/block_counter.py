"""KV blocks by number alone: who holds how many, and how many are free.

Without prefix caching no block is worth more than another, so counting decides exactly as
vLLM's block pool does (`v1/core/kv_cache_manager.py`, `allocate_slots`).
"""

from __future__ import annotations

from coursekit.request import Request


class BlockCounter:
    """`num_blocks` KV blocks of `block_size` tokens each. Raises ValueError for sizes < 1."""

    caches_prefixes = False

    def __init__(self, num_blocks: int, block_size: int = 16):
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be >= 1, got {num_blocks}")
        if block_size < 1:
            raise ValueError(f"block_size must be >= 1 token, got {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_free = num_blocks

    def num_cached_tokens(self, request: Request) -> int:
        """Tokens of a waiting request whose KV is here already: none without prefix caching."""
        return 0

    def fits(self, request: Request, num_tokens: int, num_cached_tokens: int = 0) -> bool:
        """Whether `request` could hold blocks for its first `num_tokens` tokens now.

        num_cached_tokens: how many of them are here already; none without prefix caching.
        """
        return -(-num_tokens // self.block_size) - request.num_blocks <= self.num_free

    def allocate(self, request: Request, num_tokens: int) -> bool:
        """Give `request` blocks for its first `num_tokens` tokens, or nothing and False."""
        needed = -(-num_tokens // self.block_size) - request.num_blocks
        if needed > self.num_free:
            return False
        if needed > 0:
            self.num_free -= needed
            request.num_blocks += needed
        return True

    def release(self, request: Request) -> None:
        """Take back all blocks of `request`."""
        self.num_free += request.num_blocks
        request.num_blocks = 0
