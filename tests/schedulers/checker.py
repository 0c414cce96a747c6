"""A second bookkeeping beside a scheduler's own: what must hold in every step, whatever the policy.

`check` runs a workload through a scheduler and keeps its own ledger of tokens; any promise that
a step breaks is an AssertionError that names the step. What only one policy promises is in
`OWN_RULES`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from coursekit.batch import Batch
from coursekit.request import Request
from coursekit.schedulers import (
    DecodeFirst,
    InterleavedPrefillDecodeScheduler,
    OrcaMixed,
    PrefillFirst,
    PriorityAwareChunking,
    PriorityTokenBudget,
    Scheduler,
    StallFree,
)


class Arrival(NamedTuple):
    """A request of a workload and the step before which it arrives."""

    step: int
    num_prompt_tokens: int
    max_tokens: int
    priority: int = 0
    priority_class: str = "medium"


class Step(NamedTuple):
    """What one step did, by request index; chunks are (index, num_tokens, context)."""

    decoding: tuple[int, ...]
    chunks: tuple[tuple[int, int, int], ...]
    admitted: tuple[int, ...]
    preempted: tuple[int, ...]


@dataclass
class Ledger:
    """What the checker knows of one request without asking it."""

    num_computed: int = 0
    num_output: int = 0
    num_ever_computed: int = 0
    num_lost: int = 0
    preempted: int = 0
    decodes: bool = False  # has had a token, and lost nothing since
    first_token_step: int = -1
    finish_step: int = -1


@dataclass
class Run:
    """A checked run: its steps and, for each request of the workload, its ledger."""

    steps: list[Step] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)


def check(scheduler: Scheduler, workload: list[Arrival]) -> Run:
    """Run `workload`, sorted by step, to its end; AssertionError if a promise is broken."""
    requests = [Request(i, float(a.step), *a[1:]) for i, a in enumerate(workload)]
    run = Run(ledgers=[Ledger() for _ in requests])
    coming, now, last = list(zip(workload, requests)), 0, _longest_run(workload)
    while coming or scheduler.has_requests:
        assert now <= last, f"not done after {now} steps: somebody waits for ever"
        while coming and coming[0][0].step <= now:
            scheduler.add_request(coming.pop(0)[1])
        if scheduler.has_requests:
            try:
                run.steps.append(_check_step(scheduler, requests, run.ledgers, now))
            except AssertionError as error:
                raise AssertionError(f"step {now}: {error}") from error
        now += 1
    for request, ledger in zip(requests, run.ledgers):
        needed = request.num_prompt_tokens + request.max_tokens - 1
        assert ledger.finish_step >= 0, f"request {request.index} got lost"
        assert ledger.num_ever_computed == needed + ledger.num_lost, (
            f"request {request.index}: {ledger.num_ever_computed} tokens computed, "
            f"{needed} needed, {ledger.num_lost} lost to preemption"
        )
    assert scheduler.kv.num_free == scheduler.kv.num_blocks, "blocks are held by nobody"
    return run


def _longest_run(workload: list[Arrival]) -> int:
    """Steps that are more than enough: one for each token, and some for tokens lost."""
    return 50 + max((a.step for a in workload), default=0) + 4 * sum(a[1] + a[2] for a in workload)


def _check_step(
    scheduler: Scheduler, requests: list[Request], ledgers: list[Ledger], now: int
) -> Step:
    could_decode = [r for r in scheduler.running if ledgers[r.index].decodes]
    batch = scheduler.schedule()
    for request in batch.preempted:
        ledger = ledgers[request.index]
        ledger.num_lost += ledger.num_computed
        ledger.num_computed = 0
        ledger.preempted += 1
        ledger.decodes = False
    decoding = [r for r in scheduler.running if r.entry_clock >= 0]
    _check_limits(scheduler, batch, decoding)
    _check_tokens(batch, decoding, ledgers)
    left_out = [r.index for r in could_decode if r in scheduler.running and r not in decoding]
    rule = OWN_RULES.get(_policy(scheduler))
    if rule:
        rule(scheduler, batch, left_out)
    _compute(batch, decoding, ledgers)
    _check_blocks(scheduler, requests, ledgers, batch)
    step = Step(
        tuple(r.index for r in decoding),
        tuple((c.request.index, c.num_tokens, c.context) for c in batch.chunks),
        tuple(r.index for r in batch.admitted),
        tuple(r.index for r in batch.preempted),
    )
    _check_finished(scheduler.update(batch), batch, decoding, ledgers, now)
    _check_blocks(scheduler, requests, ledgers, None)
    return step


def _policy(scheduler: Scheduler) -> type | None:
    return next((policy for policy in type(scheduler).__mro__ if policy in OWN_RULES), None)


def _lacks_one(request: Request, ledger: Ledger) -> bool:
    known = request.num_prompt_tokens + ledger.num_output
    return ledger.num_output > 0 and ledger.num_computed == known - 1


def _check_limits(scheduler: Scheduler, batch: Batch, decoding: list[Request]) -> None:
    # vLLM's priority policy may preempt the very request whose turn it is, and end the step there
    ends_early = batch.preempted and isinstance(scheduler, PriorityTokenBudget)
    assert batch.num_tokens or ends_early, "requests are there, and nobody gets a token"
    assert batch.num_decodes in (0, len(decoding)), "the group decodes together or not at all"
    if batch.num_decodes == 0:
        decoding.clear()
    served = decoding + [chunk.request for chunk in batch.chunks]
    assert len(served) == len(set(served)), "a request is in the batch twice"
    assert all(r in scheduler.running for r in served), "somebody runs without being admitted"
    assert len(scheduler.running) <= scheduler.max_num_seqs, "more than max_num_seqs run"
    alone = not batch.num_decodes and len(batch.chunks) == 1
    if not (alone and isinstance(scheduler, WHOLE_PROMPTS)):
        assert batch.num_tokens <= scheduler.token_budget, (
            f"{batch.num_tokens} tokens, the budget is {scheduler.token_budget}"
        )
    assert not (batch.preempted and batch.admitted), "a step that preempts admits somebody"


def _check_tokens(batch: Batch, decoding: list[Request], ledgers: list[Ledger]) -> None:
    for request in decoding:
        assert _lacks_one(request, ledgers[request.index]), f"{request} is not decoding"
    if batch.num_decodes:
        context = sum(ledgers[r.index].num_computed for r in decoding)
        assert batch.decode_context == context, f"context {batch.decode_context}, not {context}"
    for request, num_tokens, context in batch.chunks:
        ledger = ledgers[request.index]
        known = request.num_prompt_tokens + ledger.num_output
        assert context == ledger.num_computed, f"{request} goes on at {context}"
        assert 1 <= num_tokens <= known - context, f"{request} gets {num_tokens} tokens"


def _compute(batch: Batch, decoding: list[Request], ledgers: list[Ledger]) -> None:
    served = [(r, 1) for r in decoding] + [chunk[:2] for chunk in batch.chunks]
    for request, num_tokens in served:
        ledgers[request.index].num_computed += num_tokens
        ledgers[request.index].num_ever_computed += num_tokens


def _check_blocks(
    scheduler: Scheduler, requests: list[Request], ledgers: list[Ledger], batch: Batch | None
) -> None:
    """Every block is free or somebody's, and everybody has those that its tokens need.

    With `batch` given it is about to run: its decodes have their blocks, the group's clock does
    not know it yet.
    """
    kv, group = scheduler.kv, scheduler.group
    held = group.num_blocks_needed() if batch and batch.num_decodes else 0
    for request in requests:
        if request.entry_clock >= 0:
            held += group.num_blocks_of(request)
            if not batch:
                needed = -(-ledgers[request.index].num_computed // kv.block_size)
                assert group.num_blocks_of(request) == needed, f"{request} needs {needed} blocks"
        elif request in scheduler.running:
            held += request.num_blocks
            needed = -(-ledgers[request.index].num_computed // kv.block_size)
            assert request.num_blocks >= needed, f"{request} has {request.num_blocks} blocks"
        else:
            assert not request.num_blocks, f"{request} does not run and holds blocks"
    assert held + kv.num_free == kv.num_blocks, (
        f"{held} blocks held and {kv.num_free} free of {kv.num_blocks}"
    )
    assert kv.num_free >= 0, f"{kv.num_free} blocks free"


def _check_finished(
    finished: list[Request],
    batch: Batch,
    decoding: list[Request],
    ledgers: list[Ledger],
    now: int,
) -> None:
    expected = set()
    for request in decoding + [chunk.request for chunk in batch.chunks]:
        ledger = ledgers[request.index]
        if ledger.num_computed == request.num_prompt_tokens + ledger.num_output:
            ledger.num_output += 1
            ledger.decodes = True
            if ledger.first_token_step < 0:
                ledger.first_token_step = now
            if ledger.num_output == request.max_tokens:
                expected.add(request)
                ledger.finish_step = now
                ledger.num_computed = 0
    assert len(finished) == len(set(finished)), "a request finishes twice"
    assert set(finished) == expected, f"{finished} finish, {expected} have all their tokens"
    assert all(r.num_output_tokens == r.max_tokens for r in finished), f"{finished}"


# --- What single policies promise beyond that ---

WHOLE_PROMPTS = (PrefillFirst, DecodeFirst, OrcaMixed)  # may run one longer than the budget alone


def _whole_prompts(batch: Batch) -> bool:
    return all(c.context == 0 and c.num_tokens == c.request.num_tokens for c in batch.chunks)


def _prefill_first(scheduler: PrefillFirst, batch: Batch, left_out: list[int]) -> None:
    assert _whole_prompts(batch), "a prompt is cut"
    assert not (batch.num_decodes and batch.chunks), "decodes run beside prompts"
    assert not left_out or batch.chunks, f"{left_out} do not decode, and there is no prompt"


def _decode_first(scheduler: DecodeFirst, batch: Batch, left_out: list[int]) -> None:
    _prefill_first(scheduler, batch, left_out)
    assert not left_out, f"{left_out} wait for a prompt"
    assert not batch.preempted, "somebody is preempted"


def _orca_mixed(scheduler: OrcaMixed, batch: Batch, left_out: list[int]) -> None:
    assert _whole_prompts(batch), "a prompt is cut"
    assert not left_out, f"{left_out} do not decode"
    assert not batch.preempted, "somebody is preempted"


def _stall_free(scheduler: StallFree, batch: Batch, left_out: list[int]) -> None:
    assert not left_out, f"{left_out} do not decode"
    if any(c.context + c.num_tokens < c.request.num_tokens for c in batch.chunks):
        assert batch.num_tokens % scheduler.tile_size == 0, f"{batch.num_tokens} tokens: no tiles"


def _interleaved(
    scheduler: InterleavedPrefillDecodeScheduler, batch: Batch, left_out: list[int]
) -> None:
    assert not left_out, f"{left_out} do not decode"
    assert len(batch.chunks) <= 1, "chunks of several prompts"
    assert all(c.num_tokens <= scheduler.chunk_size for c in batch.chunks), "the chunk is too long"
    most = scheduler.chunk_size + scheduler.max_num_seqs - 1
    assert batch.num_tokens <= most, f"{batch.num_tokens} tokens, {most} are the most"


def _priority_aware(
    scheduler: PriorityAwareChunking, batch: Batch, left_out: list[int]
) -> None:
    assert not left_out, f"{left_out} do not decode"
    for chunk in batch.chunks:
        assert chunk.num_tokens <= scheduler.get_chunk_size(chunk.request), f"{chunk} is too long"


OWN_RULES = {
    PrefillFirst: _prefill_first,
    DecodeFirst: _decode_first,
    OrcaMixed: _orca_mixed,
    StallFree: _stall_free,
    InterleavedPrefillDecodeScheduler: _interleaved,
    PriorityAwareChunking: _priority_aware,
}
