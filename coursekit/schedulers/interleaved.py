"""The module's idea, completed: one chunk of one prompt, and a token for all that decode.

Source: the course module, section 2.2. Every iteration carries the next chunk of the oldest
unfinished prompt, at most `chunk_size` tokens, and one token of each decoding request. Prompts
are finished one after another in order of arrival, so nobody starves, and requests leave when
they have all their tokens. Its weakness: a prompt's last chunk is often small, and what it
leaves of `chunk_size` is not given to the next prompt; so short prompts come in one an iteration.
"""

from __future__ import annotations

from coursekit.batch import Batch
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.schedulers.base import NO_LIMIT, Scheduler


class InterleavedPrefillDecodeScheduler(Scheduler):
    """One chunk of the oldest prompt, then a token for everybody else.

    chunk_size: most prompt tokens in an iteration, >= 1; may be changed between steps. There is
    no token budget: an iteration has at most chunk_size + max_num_seqs - 1 tokens. A new
    request gets KV blocks for its whole prompt at once. Others: see `Scheduler`.
    Raises ValueError for a limit < 1.
    """

    def __init__(
        self,
        chunk_size: int = 512,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
    ):
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be >= 1 token, got {chunk_size}")
        super().__init__(NO_LIMIT, max_num_seqs, kv, max_model_len)
        self.chunk_size = chunk_size

    def schedule(self) -> Batch:
        batch = Batch()
        self._make_room_for_decodes(batch)
        self._take_decodes(batch)
        if self.catching_up:
            request = next(iter(self.catching_up))
            self._take_chunk(batch, request, min(request.num_missing_tokens, self.chunk_size))
        elif self.waiting and self._num_free_seats > 0 and not batch.preempted:
            request = self.waiting[0]
            if self.kv.allocate(request, request.num_tokens):
                self._admit(batch, min(request.num_tokens, self.chunk_size))
        return batch

    schedule_next_batch = schedule  # the module's name for it
