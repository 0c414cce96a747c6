"""Orca's policy: the batch is made anew in every iteration, whole prompts beside decodes.

Source: Orca (OSDI 2022), algorithm 1, iteration-level scheduling. In every iteration all
running requests get a token, and waiting ones join with their whole prompt as soon as one of
the `max_num_seqs` places and KV blocks for all that they may generate are free. Nobody waits
for a batch to end. Its weakness: an iteration with a long prompt is a long iteration, and
every decode in it waits; and memory set aside for output that never comes stays unused.
"""

from __future__ import annotations

from coursekit.batch import Batch
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.request import Request
from coursekit.schedulers.base import NO_LIMIT, Scheduler


class OrcaMixed(Scheduler):
    """A token for everybody, and whole prompts as long as places and KV blocks are free.

    token_budget: the paper has none, so without limit by default; with one, a prompt that does
    not fit beside the decodes waits, and one longer than the budget waits until it can run
    alone. KV blocks are set aside at admission (the paper's `n_rsrv`), so nobody is preempted.
    Others: see `Scheduler`.
    """

    def __init__(
        self,
        token_budget: int = NO_LIMIT,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
    ):
        super().__init__(token_budget, max_num_seqs, kv, max_model_len)
        self.num_reserved_blocks = 0  # for all that the running requests may grow to

    def schedule(self) -> Batch:
        batch = Batch()
        self._take_decodes(batch)
        budget = self.token_budget - batch.num_decodes
        while self.waiting and self._num_free_seats > 0:
            request = self.waiting[0]
            reserved = self.num_reserved_blocks + self._num_blocks_to_finish(request)
            alone = not batch.num_decodes and not batch.chunks
            if reserved > self.kv.num_blocks or request.num_tokens > budget and not alone:
                break
            self.num_reserved_blocks = reserved
            budget -= request.num_tokens
            self._admit(batch, request.num_tokens)
        return batch

    def _release(self, request: Request) -> None:
        if request in self.running:  # one that was aborted while it waited has none
            self.num_reserved_blocks -= self._num_blocks_to_finish(request)
        super()._release(request)

    def _preempt(self, request: Request) -> None:
        self.num_reserved_blocks -= self._num_blocks_to_finish(request)
        super()._preempt(request)
