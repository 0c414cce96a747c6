"""Sarathi-Serve's policy: decodes first, by rule; prompts fill what the budget has left.

Source: Sarathi-Serve (OSDI 2024), algorithm 3, stall-free batching; tile alignment from Sarathi
(arXiv 2308.16369). Every iteration starts with a token for all that decode; then prompts begun
earlier go on, then new ones begin, each with as large a chunk as the budget still holds. So no
decode waits longer than an iteration of `token_budget` tokens takes. Its weakness: the budget is
the same for a short context and a long one, though later chunks take longer; and a budget small
enough for the decodes makes long prompts slow.
"""

from __future__ import annotations

from coursekit.batch import Batch
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.schedulers.base import Scheduler


class StallFree(Scheduler):
    """All decodes, then chunks of running prompts, then of new ones, under one token budget.

    tile_size: align to the tiles of matrix kernels, 1 for no alignment. The budget is rounded
    down to a multiple of it, so the iteration's *total*, decodes included, is a multiple
    whenever a prompt is cut; a prompt's last chunk may leave it unaligned. A new request gets
    KV blocks for its whole prompt at once. If the budget is lowered under the number of
    requests that decode, they still all decode. Others: see `Scheduler`. Raises ValueError for a
    limit out of range.
    """

    def __init__(
        self,
        token_budget: int = 512,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
        tile_size: int = 1,
    ):
        super().__init__(token_budget, max_num_seqs, kv, max_model_len)
        if not 1 <= tile_size <= token_budget:
            raise ValueError(
                f"tile_size must be in 1..{token_budget} (the token budget), got {tile_size}"
            )
        self.tile_size = tile_size

    def schedule(self) -> Batch:
        batch = Batch()
        self._make_room_for_decodes(batch)
        self._take_decodes(batch)
        budget = self.token_budget // self.tile_size * self.tile_size - batch.num_decodes
        for request in self.catching_up:
            if budget <= 0:
                break
            num_tokens = min(request.num_missing_tokens, budget)
            self._take_chunk(batch, request, num_tokens)
            budget -= num_tokens
        while self.waiting and budget > 0 and self._num_free_seats > 0 and not batch.preempted:
            request = self.waiting[0]
            if not self.kv.allocate(request, request.num_tokens):
                break
            num_tokens = min(request.num_tokens, budget)
            self._admit(batch, num_tokens)
            budget -= num_tokens
        return batch
