"""Request-level batching, FasterTransformer's policy: a batch stays together until it is done.

Source: FasterTransformer behind a batching server, as described in Orca (OSDI 2022) and in
Sarathi-Serve (OSDI 2024, "decode-prioritizing"). Requests come in only when nothing runs: their
whole prompts in one iteration, then a token for each of them until the last has finished. No
decode ever waits for a prompt. Its weakness: whoever arrives waits for the longest output of the
batch before, and the batch runs emptier and emptier towards its end.
"""

from __future__ import annotations

from coursekit.batch import Batch
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.schedulers.base import NO_LIMIT, Scheduler


class DecodeFirst(Scheduler):
    """A new batch of whole prompts when nothing runs, else a token for everybody.

    token_budget: most prompt tokens of a batch, without limit by default; a longer prompt is a
    batch of its own. KV blocks for all that a request may generate are set aside when it comes
    in, as FasterTransformer does, so nobody is preempted. Others: see `Scheduler`.
    """

    def __init__(
        self,
        token_budget: int = NO_LIMIT,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
    ):
        super().__init__(token_budget, max_num_seqs, kv, max_model_len)

    def schedule(self) -> Batch:
        batch = Batch()
        if self.running:
            self._take_decodes(batch)
        else:
            self._admit_batch(batch)
        return batch

    def _admit_batch(self, batch: Batch) -> None:
        budget, num_free = self.token_budget, self.kv.num_free
        while self.waiting and self._num_free_seats > 0:
            request = self.waiting[0]
            num_free -= self._num_blocks_to_finish(request)
            if num_free < 0 or request.num_tokens > budget and batch.chunks:
                break
            budget -= request.num_tokens
            self._admit(batch, request.num_tokens)
