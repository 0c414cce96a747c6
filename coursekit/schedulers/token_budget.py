"""vLLM V1's policy: every request catches up, under one token budget, in order of admission.

Source: `vllm/v1/core/sched/scheduler.py` of vLLM 0.32, `Scheduler.schedule`. In each step the
running requests, in the order in which they were admitted, take what they lack, up to the
budget; what is left goes to waiting requests, first come first served. Decodes usually go
first because they were admitted first, not by rule. If KV blocks run out, the last admitted
request loses its blocks, and computes its tokens again later. Its weakness: one long prompt takes
all that the decodes leave, so short ones behind it wait until it is done; and the one budget
that sets how long an iteration takes sets how long a first token takes as well.
"""

from __future__ import annotations

from coursekit.batch import Batch, Chunk
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.request import Request
from coursekit.schedulers.base import NO_LIMIT, Scheduler


class TokenBudget(Scheduler):
    """Decides as vLLM 0.32 does, step by step.

    long_prefill_token_threshold: most tokens of one request in one iteration while there is
    another request; 0 for no cap. enable_chunked_prefill: without it a prompt waits until it
    fits the budget whole. reserve_full_isl: a request is admitted only if blocks for all its
    present tokens are free (vLLM: scheduler_reserve_full_isl). Others: see `Scheduler`.
    Raises ValueError for a limit out of range.
    """

    can_cache_prefixes = True

    def __init__(
        self,
        token_budget: int = 2048,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
        long_prefill_token_threshold: int = 0,
        enable_chunked_prefill: bool = True,
        reserve_full_isl: bool = True,
    ):
        super().__init__(token_budget, max_num_seqs, kv, max_model_len)
        if long_prefill_token_threshold < 0:
            raise ValueError(
                "long_prefill_token_threshold must be >= 0 (0: no cap), got "
                f"{long_prefill_token_threshold}"
            )
        self.long_prefill_token_threshold = long_prefill_token_threshold
        self.enable_chunked_prefill = enable_chunked_prefill
        self.reserve_full_isl = reserve_full_isl

    def schedule(self) -> Batch:
        batch = Batch()
        alone = len(self.running) + len(self.waiting) <= 1
        cap = NO_LIMIT if alone else self.long_prefill_token_threshold or NO_LIMIT
        budget = self._schedule_running_at_once(batch, cap)
        if budget is None:
            budget = self._schedule_running_one_by_one(batch, cap)
        if not batch.preempted:
            self._schedule_waiting(batch, cap, budget)
        return batch

    def _schedule_running_at_once(self, batch: Batch, cap: int) -> int | None:
        """Serve all running requests without walking them, and return the budget left.

        Returns None, with nothing done, if the order of the requests could matter: when KV
        blocks are short, or the budget runs out before a decode has had its token.
        """
        group, kv, budget = self.group, self.kv, self.token_budget - self.group.size
        if budget < 0:
            return None
        plan, num_blocks, block_size = [], group.num_blocks_needed(), kv.block_size
        for request in self.catching_up:
            wanted = min(request.num_missing_tokens, cap)
            num_tokens = min(wanted, budget)
            if num_tokens < wanted and not self._decodes_come_first():
                return None
            if num_tokens == 0:
                break
            end = request.num_computed_tokens + num_tokens
            num_blocks += -(-end // block_size) - request.num_blocks
            plan.append((request, num_tokens))
            budget -= num_tokens
        if num_blocks > kv.num_free:
            return None
        self._take_decodes(batch)
        for request, num_tokens in plan:
            self._take_chunk(batch, request, num_tokens)
        return budget

    def _decodes_come_first(self) -> bool:
        """Whether every member of the group was admitted before all that are catching up."""
        latest = reversed(self.running)
        return all(next(latest) in self.catching_up for _ in self.catching_up)

    def _schedule_running_one_by_one(self, batch: Batch, cap: int) -> int:
        """Walk the running requests as vLLM does, preempting for blocks; return the budget left."""
        walk = _Walk(self, batch, cap)
        walk.run()
        return walk.budget

    def _victim(self, queue: list[Request]) -> Request:
        """Whom to preempt: the last admitted."""
        return queue[-1]

    def _schedule_waiting(self, batch: Batch, cap: int, budget: int) -> None:
        """Admit waiting requests, head first, until the first that does not fit."""
        kv = self.kv
        while self.waiting and budget > 0 and len(self.running) < self.max_num_seqs:
            request = self._head()
            cached = kv.num_cached_tokens(request)
            num_tokens = min(request.num_tokens - cached, cap)
            if num_tokens > budget:
                if not self.enable_chunked_prefill:
                    break
                num_tokens = budget
            needed = request.num_tokens if self.reserve_full_isl else cached + num_tokens
            if not kv.fits(request, needed, cached):
                break
            self._admit(batch, num_tokens, cached)
            budget -= num_tokens

    def _head(self) -> Request:
        """The waiting request that is next."""
        return self.waiting[0]


class _Walk:
    """One pass over the running requests in order, when order decides.

    Decodes are served one at a time here; those that get no token leave the group and catch
    up later, like anybody who lacks tokens.
    """

    def __init__(self, scheduler: TokenBudget, batch: Batch, cap: int):
        self.scheduler, self.batch, self.cap = scheduler, batch, cap
        self.budget = scheduler.token_budget
        self.queue = list(scheduler.running)
        self.decoding: dict[Request, int] = {}  # member of the group -> blocks it took
        self.chunks: dict[Request, Chunk] = {}

    def run(self) -> None:
        position = 0
        while position < len(self.queue) and self.budget > 0:
            request = self.queue[position]
            # decided before anybody is preempted for it, even if that frees some budget
            num_tokens = min(request.num_missing_tokens, self.cap, self.budget)
            while not self._serve(request, num_tokens):
                victim = self.scheduler._victim(self.queue)
                place = self.queue.index(victim)
                del self.queue[place]
                position -= place < position
                self._preempt(victim)
                if victim is request:
                    return self._settle()
            position += 1
        self._settle()

    def _serve(self, request: Request, num_tokens: int) -> bool:
        """Give `request` its tokens of this step, or nothing and False if blocks are short."""
        scheduler, kv = self.scheduler, self.scheduler.kv
        if request.entry_clock >= 0:
            num_blocks = int(scheduler.group.needs_block(request))
            if num_blocks > kv.num_free:
                return False
            kv.num_free -= num_blocks
            self.decoding[request] = num_blocks
            self.budget -= 1
            return True
        context = request.num_computed_tokens
        if not kv.allocate(request, context + num_tokens):
            return False
        self.chunks[request] = Chunk(request, num_tokens, context)
        self.budget -= num_tokens
        return True

    def _preempt(self, victim: Request) -> None:
        """Preempt, and give back what the victim had taken in this step."""
        if victim in self.decoding:
            self.scheduler.kv.num_free += self.decoding.pop(victim)
            self.budget += 1
        elif victim in self.chunks:
            self.budget += self.chunks.pop(victim).num_tokens
        self.scheduler._preempt(victim)
        self.batch.preempted.append(victim)

    def _settle(self) -> None:
        """Turn the pass into the batch: what was served, and who has to catch up."""
        scheduler, group, batch = self.scheduler, self.scheduler.group, self.batch
        for request in self.queue:
            if request.entry_clock >= 0 and request not in self.decoding:
                group.remove(request)
                scheduler.catching_up[request] = None
        in_order = sorted(scheduler.catching_up, key=lambda r: r.running_order)
        scheduler.catching_up = dict.fromkeys(in_order)
        batch.num_decodes, batch.decode_context = group.size, group.context
        for request, chunk in self.chunks.items():
            request.num_computed_tokens += chunk.num_tokens
            batch.chunks.append(chunk)
