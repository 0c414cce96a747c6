"""Our schedulers on a case of the oracle, their books checked after every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from coursekit.batch import Batch
from coursekit.kv_cache import BlockCounter, PrefixCachingBlocks
from coursekit.request import Request
from coursekit.schedulers import PriorityTokenBudget, TokenBudget
from tests.oracle.schedule import Step
from tests.oracle.strategies import GENERATED_TOKEN, Arrival, Case, Settings

SchedulerMaker = Callable[[Settings], TokenBudget]


def make_scheduler(
    settings: Settings,
    fcfs: type[TokenBudget] = TokenBudget,
    priority: type[TokenBudget] = PriorityTokenBudget,
    caching: type[PrefixCachingBlocks] = PrefixCachingBlocks,
) -> TokenBudget:
    """The scheduler that a case asks for; tests put other classes in."""
    blocks = caching if settings.caches_prefixes else BlockCounter
    scheduler = (priority if settings.by_priority else fcfs)(
        token_budget=settings.token_budget,
        max_num_seqs=settings.max_num_seqs,
        kv=blocks(settings.num_blocks, settings.block_size),
        max_model_len=settings.max_model_len,
        long_prefill_token_threshold=settings.long_prefill_token_threshold,
        enable_chunked_prefill=settings.enable_chunked_prefill,
        reserve_full_isl=settings.reserve_full_isl,
    )
    scheduler.placeholder_token = GENERATED_TOKEN
    return scheduler


def our_steps(case: Case, make: SchedulerMaker = make_scheduler) -> Iterator[Step]:
    """Run a case through our scheduler, one step at a time.

    Raises AssertionError if a step breaks a limit or loses a KV block.
    """
    scheduler, now = make(case.settings), 0
    requests = [_make_request(k, a, case.settings) for k, a in enumerate(case.arrivals)]
    coming = deque(zip(case.arrivals, requests, strict=True))
    while coming or scheduler.has_requests:
        while coming and coming[0][0].arrival_step <= now:
            scheduler.add_request(coming.popleft()[1])
        scheduler.token_budget = case.settings.budget_at(now)
        batch = scheduler.schedule()
        step = _read(scheduler, batch)
        _check_limits(case.settings, now, batch, step)
        yield step
        scheduler.update(batch)
        _check_blocks(scheduler)
        now += 1
    assert all(request.num_output_tokens == request.max_tokens for request in requests)


def _make_request(index: int, arrival: Arrival, settings: Settings) -> Request:
    return Request(
        index, float(index), arrival.num_prompt_tokens, arrival.max_tokens, arrival.priority,
        prompt_token_ids=arrival.token_ids if settings.caches_prefixes else None,
    )  # fmt: skip


def _read(scheduler: TokenBudget, batch: Batch) -> Step:
    """A batch in the oracle's words: members of the decode group run one token each."""
    clock = scheduler.group.clock
    chunks = {
        request.index: (request.num_computed_tokens + clock - request.entry_clock, 1)
        for request in scheduler.running
        if request.entry_clock >= 0
    }
    assert len(chunks) == batch.num_decodes
    assert sum(context for context, _ in chunks.values()) == batch.decode_context
    for request, num_tokens, context in batch.chunks:
        assert request.index not in chunks, f"{request} is in the batch twice"
        chunks[request.index] = (context, num_tokens)
    preempted = tuple(sorted(request.index for request in batch.preempted))
    return Step(chunks, preempted, scheduler.kv.num_free)


def _check_limits(settings: Settings, now: int, batch: Batch, step: Step) -> None:
    assert batch.num_tokens == step.num_tokens <= settings.budget_at(now)
    assert len(step.chunks) <= settings.max_num_seqs
    assert all(num_tokens >= 1 for _, num_tokens in step.chunks.values())


def _check_blocks(scheduler: TokenBudget) -> None:
    """Every KV block is free or held; without prefix caching nobody holds another's."""
    kv, group = scheduler.kv, scheduler.group
    if kv.caches_prefixes:
        num_held = len({block for r in scheduler.running for block in kv.blocks_of(r)})
    else:
        num_held = sum(
            group.num_blocks_of(r) if r.entry_clock >= 0 else r.num_blocks
            for r in scheduler.running
        )
    assert num_held + kv.num_free == kv.num_blocks, f"{num_held} held, {kv.num_free} free"
    assert all(request.num_blocks == 0 for request in scheduler.waiting)
