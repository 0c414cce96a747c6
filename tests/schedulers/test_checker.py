"""The checker catches schedulers with a fault planted in them."""

import pytest

from coursekit.batch import Batch, Chunk
from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import InterleavedPrefillDecodeScheduler, PrefillFirst, StallFree
from coursekit.schedulers.base import Scheduler
from tests.schedulers.checker import Arrival, check

WORKLOAD = [
    Arrival(0, 20, 12), Arrival(0, 20, 12), Arrival(1, 20, 12), Arrival(2, 8, 12),
    Arrival(3, 30, 1), Arrival(3, 3, 5),
]  # fmt: skip


class OverBudget(StallFree):
    """Counts the decodes, then forgets them."""

    def _take_decodes(self, batch):
        super()._take_decodes(batch)
        self.token_budget = 30 + batch.num_decodes

    def schedule(self):
        batch = super().schedule()
        self.token_budget = 30
        return batch


class TooManyRun(StallFree):
    """Runs one request more than it was told."""

    @property
    def _num_free_seats(self):
        return super()._num_free_seats + 1


class LosesThePreempted(StallFree):
    """Forgets to queue them again."""

    def _requeue(self, request):
        pass


class KeepsBlocks(StallFree):
    """Never gives back the blocks of who has finished."""

    def _release(self, request):
        del self.running[request]
        self.catching_up.pop(request, None)


class TakesNoBlocks(StallFree):
    """Decodes into blocks that it has not taken."""

    def _take_decodes(self, batch):
        num_free = self.kv.num_free
        super()._take_decodes(batch)
        self.kv.num_free = num_free


class SkipsATokenOfEachPrompt(StallFree):
    """Its chunks end one token further than they compute."""

    def _take_chunk(self, batch, request, num_tokens):
        taken = super()._take_chunk(batch, request, num_tokens)
        if num_tokens > 1:
            batch.chunks[-1] = Chunk(request, num_tokens - 1, batch.chunks[-1].context)
        return taken


class ComputesTwice(StallFree):
    """Puts the first prompt into the batch a second time."""

    def schedule(self):
        batch = super().schedule()
        batch.chunks += batch.chunks[:1]
        return batch


class AdmitsAfterPreempting(StallFree):
    """Gives the blocks that it has just taken away to whoever is short enough for them."""

    def schedule(self):
        batch = super().schedule()
        if batch.preempted:
            self.waiting.rotate(1)
            if self.kv.fits(self.waiting[0], self.waiting[0].num_tokens):
                self._admit(batch, self.waiting[0].num_tokens)
        return batch


class NeverServesShortPrompts(StallFree):
    """Lets longer prompts pass for ever."""

    def schedule(self):
        if self.waiting and self.waiting[0].num_prompt_tokens < 5:
            self.waiting.rotate(-1)
        waiting, self.waiting = self.waiting, type(self.waiting)(
            request for request in self.waiting if request.num_prompt_tokens >= 5
        )
        short = [request for request in waiting if request.num_prompt_tokens < 5]
        batch = super().schedule()
        self.waiting.extend(short)
        return batch


class DecodesBesidePrompts(PrefillFirst):
    """Is not prefill-first at all."""

    def schedule(self):
        batch = super().schedule()
        if not batch.num_decodes and self.group.num_blocks_needed() <= self.kv.num_free:
            self._take_decodes(batch)
        return batch


class SkipsDecodes(InterleavedPrefillDecodeScheduler):
    """Lets the decodes wait while a prompt is computed."""

    def _take_decodes(self, batch: Batch):
        if not self.catching_up:
            super()._take_decodes(batch)


class BreaksTiles(StallFree):
    """Cuts prompts anywhere."""

    def schedule(self):
        tile_size, self.tile_size = self.tile_size, 1
        batch = super().schedule()
        self.tile_size = tile_size
        return batch


FAULTS = {
    OverBudget: "the budget is 30",
    TooManyRun: "more than max_num_seqs",
    LosesThePreempted: "got lost",
    KeepsBlocks: "blocks",
    TakesNoBlocks: "blocks held",
    SkipsATokenOfEachPrompt: "all their tokens|goes on at|is not decoding",
    ComputesTwice: "in the batch twice",
    AdmitsAfterPreempting: "a step that preempts",
    NeverServesShortPrompts: "nobody gets a token",
    DecodesBesidePrompts: "beside prompts",
    SkipsDecodes: "do not decode",
    BreaksTiles: "no tiles",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named(fault: type[Scheduler]):
    options = {"tile_size": 7} if fault is BreaksTiles else {}
    limit = 8 if fault is SkipsDecodes else 30
    places = 1 if fault is TooManyRun else 3
    scheduler = fault(limit, places, kv=BlockCounter(16, block_size=4), **options)
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        check(scheduler, WORKLOAD)


def test_the_same_settings_without_a_fault_pass():
    for options in ({}, {"tile_size": 7}):
        run = check(StallFree(30, 3, BlockCounter(16, block_size=4), **options), WORKLOAD)
        assert any(step.preempted for step in run.steps)
        assert any(step.admitted for step in run.steps)
