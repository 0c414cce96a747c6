"""vLLM V0's default policy: whoever waits goes first, and decodes stand still meanwhile.

Source: `vllm/core/scheduler.py` of vLLM V0, `Scheduler._schedule_default`, without its watermark
of free blocks. As long as a waiting request can be admitted, an iteration runs whole
prompts and nothing else; only when nobody can come in do all running requests decode a token.
First tokens come as early as they can. Its weakness: every prompt that arrives stalls all
decodes for as long as the whole prompt takes, and a stream of arrivals stalls them again and
again.
"""

from __future__ import annotations

from coursekit.batch import Batch
from coursekit.schedulers.base import Scheduler


class PrefillFirst(Scheduler):
    """Whole prompts if anybody can be admitted, else a token for everybody.

    token_budget: most prompt tokens of one iteration; a longer prompt runs alone. No more
    requests run than the budget has tokens, so that a decode iteration holds to it as well.
    Others: see `Scheduler`.
    """

    def schedule(self) -> Batch:
        batch = Batch()
        self._admit_whole_prompts(batch)
        if not batch.chunks:
            self._make_room_for_decodes(batch)
            self._take_decodes(batch)
        return batch

    def _admit_whole_prompts(self, batch: Batch) -> None:
        budget = self.token_budget
        while self.waiting and self._num_free_seats > 0:
            request = self.waiting[0]
            num_tokens = request.num_tokens
            if num_tokens > budget and batch.chunks or not self.kv.fits(request, num_tokens):
                break
            self._admit(batch, num_tokens)
            budget -= num_tokens
