"""KV blocks that remember what is in them, so that equal beginnings are computed once.

A full block is known by its tokens and all tokens before it. A waiting request adopts the
blocks of its longest known beginning; blocks that nobody uses stay known until they are needed
for something else, least recently used first. Decides as vLLM 0.32 does with full attention
and one KV cache group (`v1/core/block_pool.py`, `kv_cache_manager.py`). Blocks are numbers
here: the KV itself is the executor's business.
"""

from __future__ import annotations

from collections import OrderedDict

from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.request import Request


class PrefixCachingBlocks(BlockCounter):
    """`num_blocks` KV blocks of `block_size` tokens each, shared by requests that begin alike.

    A block can be found as soon as a request has been given the tokens that fill it, computed
    or to be computed in this very step. num_free counts the blocks that no request uses,
    found or not. Requests need token ids. Raises ValueError for sizes < 1.
    """

    caches_prefixes = True

    def __init__(self, num_blocks: int, block_size: int = 16):
        super().__init__(num_blocks, block_size)
        self._free = OrderedDict.fromkeys(range(num_blocks))  # in the order of their next use
        self._num_users = [0] * num_blocks
        self._key_of: list[int | None] = [None] * num_blocks
        self._blocks_with: dict[int, dict[int, None]] = {}  # equal blocks, the oldest first
        self._held: dict[Request, list[int]] = {}
        self._keys: dict[Request, list[int]] = {}

    def num_cached_tokens(self, request: Request) -> int:
        """Tokens of a waiting request whose KV is here already, in whole blocks.

        Never all of them: the last is computed anew, since somebody has to sample from it.
        Raises ValueError for a request without its token ids.
        """
        return len(self._find(request, request.num_tokens - 1)) * self.block_size

    def blocks_of(self, request: Request) -> tuple[int, ...]:
        """The blocks that a request uses, in the order of its tokens."""
        return tuple(self._held.get(request, ()))

    def fits(self, request: Request, num_tokens: int, num_cached_tokens: int = 0) -> bool:
        """Whether `request` could hold its first `num_tokens` tokens now.

        num_cached_tokens: how many of them a waiting request would adopt. A block that nobody
        uses counts as free until it is adopted, so adopting it costs as much as a new one.
        """
        if request in self._held:
            return super().fits(request, num_tokens)
        adopted = self._find(request, num_cached_tokens)
        num_new = max(-(-num_tokens // self.block_size) - len(adopted), 0)
        return num_new + sum(self._num_users[block] == 0 for block in adopted) <= self.num_free

    def allocate(self, request: Request, num_tokens: int) -> bool:
        """Give `request` blocks for its first `num_tokens` tokens, or nothing and False.

        One that has none yet adopts those of the `num_computed_tokens` that it was admitted
        with. Blocks that become full can be found by others from now on.
        """
        num_computed_tokens = request.num_computed_tokens
        if not self.fits(request, num_tokens, num_computed_tokens):
            return False
        if request not in self._held:
            self._adopt(request, self._find(request, num_computed_tokens))
        held = self._held[request]
        while len(held) * self.block_size < num_tokens:
            held.append(self._take_free())
        request.num_blocks = len(held)
        num_known, num_full = num_computed_tokens // self.block_size, num_tokens // self.block_size
        if num_full > num_known:
            keys = self._keys_of(request, num_full)
            for place in range(num_known, num_full):
                self._make_known(held[place], keys[place])
        return True

    def release(self, request: Request) -> None:
        """Take back all blocks of `request`; full ones stay known until they are needed.

        The end of a request is reused before its beginning, which others are likelier to
        share; blocks that were never filled are reused before all others.
        """
        freed = []
        for block in reversed(self._held.pop(request, ())):
            self._num_users[block] -= 1
            if self._num_users[block] == 0:
                self._free[block] = None
                freed.append(block)
        for block in reversed(freed):
            if self._key_of[block] is None:
                self._free.move_to_end(block, last=False)
        self.num_free += len(freed)
        self._keys.pop(request, None)
        request.num_blocks = 0

    def _find(self, request: Request, max_tokens: int) -> list[int]:
        """Known blocks that hold the beginning of `request`, of at most max_tokens tokens."""
        blocks: list[int] = []
        for key in self._keys_of(request, max_tokens // self.block_size):
            equal = self._blocks_with.get(key)
            if not equal:
                break
            blocks.append(next(iter(equal)))
        return blocks

    def _keys_of(self, request: Request, num_blocks: int) -> list[int]:
        """What the first `num_blocks` blocks are known by: each key covers all before it."""
        keys, size, tokens = self._keys.setdefault(request, []), self.block_size, request.token_ids
        if tokens is None or len(tokens) < num_blocks * size:
            raise ValueError(
                f"prefix caching compares token ids: request {request.index} has "
                f"{0 if tokens is None else len(tokens)} of {num_blocks * size}; make it with "
                "prompt_token_ids, or use BlockCounter"
            )
        while len(keys) < num_blocks:
            start = len(keys) * size
            keys.append(hash((keys[-1] if keys else 0, *tokens[start : start + size])))
        return keys[:num_blocks]

    def _adopt(self, request: Request, blocks: list[int]) -> None:
        for block in blocks:
            if self._num_users[block] == 0:
                del self._free[block]
                self.num_free -= 1
            self._num_users[block] += 1
        self._held[request] = blocks

    def _take_free(self) -> int:
        """The block that was least recently used; what it held is forgotten."""
        block, _ = self._free.popitem(last=False)
        self.num_free -= 1
        self._num_users[block] = 1
        key = self._key_of[block]
        if key is not None:
            self._key_of[block] = None
            equal = self._blocks_with[key]
            del equal[block]
            if not equal:
                del self._blocks_with[key]
        return block

    def _make_known(self, block: int, key: int) -> None:
        self._key_of[block] = key
        self._blocks_with.setdefault(key, {})[block] = None
