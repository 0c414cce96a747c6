"""What all schedulers share: queues, KV blocks, the decode group, and a step's aftermath.

A policy is a subclass with one method, `schedule`, which fills a `Batch`. Here is everything
that is not policy: taking requests in, admitting, preempting, and what happens once a batch
has run. Nothing here knows about time or models.
"""

from __future__ import annotations

from collections import deque

from coursekit.batch import Batch, Chunk
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.request import Request
from coursekit.schedulers.decode_group import DecodeGroup

NO_LIMIT = 2**60


class Scheduler:
    """Base of all policies.

    token_budget: most tokens of all requests in one iteration (vLLM: max_num_batched_tokens);
    may be changed between steps. max_num_seqs: most requests that run at once. kv: the KV
    blocks, plenty if None. max_model_len: most tokens of one request, prompt and output.
    Raises ValueError for a limit < 1.
    """

    def __init__(
        self,
        token_budget: int = 2048,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
    ):
        limits = {"token_budget": token_budget, "max_num_seqs": max_num_seqs}
        for name, value in {**limits, "max_model_len": max_model_len or 1}.items():
            if value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}")
        self.token_budget = token_budget
        self.max_num_seqs = max_num_seqs
        self.kv = kv if kv is not None else BlockCounter(NO_LIMIT)
        if self.kv.caches_prefixes and not self.can_cache_prefixes:
            raise ValueError(
                f"{type(self).__name__} only counts KV blocks, got {type(self.kv).__name__}: "
                "give it a BlockCounter, or use TokenBudget with the prefix cache"
            )
        self.max_model_len = max_model_len or NO_LIMIT
        self.waiting: deque[Request] = deque()
        self.running: dict[Request, None] = {}  # in order of admission
        self.catching_up: dict[Request, None] = {}  # of those, the ones outside the group
        self.group = DecodeGroup(self.kv.block_size)
        self._num_admitted = 0

    # --- What an engine calls ---

    @property
    def has_requests(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.running or self.waiting)

    def add_request(self, request: Request) -> None:
        """Queue a request. Raises ValueError for one that could never finish."""
        longest = request.num_prompt_tokens + request.max_tokens
        if longest > self.max_model_len:
            raise ValueError(
                f"request {request.index} may reach {longest} tokens, max_model_len is "
                f"{self.max_model_len}; shorten it or raise the limit"
            )
        # the last token generated is never run, so it needs no slot
        if longest - 1 > self.kv.num_blocks * self.kv.block_size:
            raise ValueError(
                f"request {request.index} may need {longest - 1} KV slots, there are "
                f"{self.kv.num_blocks * self.kv.block_size}; give the cache more blocks"
            )
        self.waiting.append(request)

    def schedule(self) -> Batch:
        """Decide the next iteration; an empty batch means that nothing can run now."""
        raise NotImplementedError

    def observe(self, batch: Batch, seconds: float) -> None:
        """Told how long a batch took, before `update`; ignored here.

        A policy that learns from it also sets `can_jump` to False, or it would miss steps.
        """

    def update(self, batch: Batch) -> list[Request]:
        """Account for a batch that has run; return the requests that it finished.

        A request whose tokens are all computed has sampled one more.
        """
        group, finished = self.group, []
        if batch.num_decodes:
            group.step()
            finished = group.pop_finished()
        for request, _, _ in batch.chunks:
            if request.num_computed_tokens == request.num_prompt_tokens + request.num_output_tokens:
                request.num_output_tokens += 1
                if request.token_ids is not None:
                    request.token_ids.append(self.placeholder_token)
                if request.num_output_tokens == request.max_tokens:
                    finished.append(request)
                elif not self.kv.caches_prefixes:
                    del self.catching_up[request]
                    group.add(request)
        for request in finished:
            self._release(request)
        return finished

    def abort(self, request: Request) -> None:
        """Drop a request between two steps, as it stands; its KV blocks are free again.

        Raises ValueError for one that neither waits nor runs.
        """
        if request in self.running:
            self._leave_group(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        else:
            raise ValueError(f"{request} neither waits nor runs; nothing to abort")
        self._release(request)

    def abandon(self, batch: Batch) -> None:
        """Undo a batch that was decided and then failed: nobody has got its tokens.

        All running requests lose their blocks and compute their tokens again. Without prefix
        caching; it may hold blocks as known that were never filled.
        """
        if batch.num_decodes:  # what `_take_decodes` took: it is not on the members' books yet
            self.kv.num_free += self.group.num_blocks_needed()
        for request in reversed(list(self.running)):
            self._preempt(request)

    can_cache_prefixes = False  # whether the policy works with a KV cache that shares prefixes

    can_jump = True  # False for a policy that decides by more than requests, blocks and budget

    def settings(self) -> dict:
        """Name and limits, as plain values, for the record of a run."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, int | str)}
        public = {name: value for name, value in own.items() if not name.startswith("_")}
        kv = {"num_blocks": self.kv.num_blocks, "block_size": self.kv.block_size}
        return {"name": type(self).__name__, **public, **kv}

    placeholder_token = 0  # stands for a generated token where no model runs

    # --- What policies are made of ---

    @property
    def _num_free_seats(self) -> int:
        """How many more may run; no more run than the budget could give a decode token each."""
        return min(self.max_num_seqs, self.token_budget) - len(self.running)

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.kv.block_size)

    def _num_blocks_to_finish(self, request: Request) -> int:
        """KV blocks that it holds at its end; its last token is never run and needs no slot."""
        return self._num_blocks(request.num_prompt_tokens + request.max_tokens - 1)

    def _make_room_for_decodes(self, batch: Batch) -> None:
        """Preempt the last admitted until each member of the group has the block it needs.

        Source: vLLM, `v1/core/sched/scheduler.py`. A step that preempts must admit nobody.
        """
        while self.group.num_blocks_needed() > self.kv.num_free:
            victim = next(reversed(self.running))
            self._preempt(victim)
            batch.preempted.append(victim)

    def _take_decodes(self, batch: Batch) -> None:
        """Give every member of the group its token; their blocks must be free."""
        group = self.group
        self.kv.num_free -= group.num_blocks_needed()
        batch.num_decodes = group.size
        batch.decode_context = group.context

    def _take_chunk(self, batch: Batch, request: Request, num_tokens: int) -> bool:
        """Give a request outside the group its next tokens, if its blocks are free."""
        context = request.num_computed_tokens
        if not self.kv.allocate(request, context + num_tokens):
            return False
        request.num_computed_tokens = context + num_tokens
        batch.chunks.append(Chunk(request, num_tokens, context))
        return True

    def _admit(self, batch: Batch, num_tokens: int, num_cached_tokens: int = 0) -> None:
        """Move the head of the waiting queue to running, with its first tokens.

        The caller has made sure that its blocks are free.
        """
        self._start(batch, self.waiting.popleft(), num_tokens, num_cached_tokens)

    def _start(
        self, batch: Batch, request: Request, num_tokens: int, num_cached_tokens: int = 0
    ) -> None:
        """Make a request that waits no more a running one, with its first tokens."""
        self._num_admitted += 1
        request.running_order = self._num_admitted
        request.num_computed_tokens = num_cached_tokens
        if not request.num_preemptions:
            request.num_cached_tokens = num_cached_tokens
        self.running[request] = self.catching_up[request] = None
        batch.admitted.append(request)
        if not self._take_chunk(batch, request, num_tokens):
            raise RuntimeError(f"{request} was admitted without room for its tokens")

    def _preempt(self, request: Request) -> None:
        """Take a running request's blocks; it keeps its tokens and computes them again."""
        del self.running[request]
        self._leave_group(request)
        self.catching_up.pop(request, None)
        self.kv.release(request)
        request.num_computed_tokens = 0
        request.num_preemptions += 1
        request.running_order = -1
        self._requeue(request)

    def _requeue(self, request: Request) -> None:
        """Put a preempted request in front of all that wait."""
        self.waiting.appendleft(request)

    def _leave_group(self, request: Request) -> None:
        if request.entry_clock >= 0:
            self.group.remove(request)

    def _release(self, request: Request) -> None:
        self.running.pop(request, None)  # one that was aborted may still wait
        self.catching_up.pop(request, None)
        self.kv.release(request)
