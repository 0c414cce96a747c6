"""What chunking costs and what mixing buys: two more tables of Sarathi-Serve (OSDI 2024).

Its ablation (table 6) serves Yi-34B with chunked prefill alone, with mixed batches alone, and
with both; its figure 9 times one prompt, whole and in chunks. Settings are the artifact's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from coursekit.batch import Batch
from coursekit.experiments.sarathi import (
    DEPLOYMENTS, WORKLOADS, draw_lengths, make_schedulers, serve, stage_costs,
)  # fmt: skip
from coursekit.metrics import summarize
from coursekit.schedulers import Scheduler
from coursekit.workload import Workload, poisson

ABLATION_RATES_PER_S = {"openchat": 1.0, "arxiv": 0.5}
ABLATION_REQUESTS = 128
WAYS = ("mixed only", "chunked only", "both")


class ChunksInTurn(Scheduler):
    """Chunked prefill without mixed batches: an iteration of chunks, then one of decodes.

    Source: the artifact's `simple_chunking_scheduler.py`. In turns while both have something to
    run; chunks of running prompts first, new prompts only if there are none. Others: see
    `Scheduler`.
    """

    can_jump = False  # whose turn it is decides as well
    is_decode_turn = False

    def schedule(self) -> Batch:
        batch = Batch()
        if not (self.is_decode_turn and self.group.size):
            self._take_chunks(batch)
        self.is_decode_turn = bool(batch.chunks)
        if not batch.chunks:
            self._make_room_for_decodes(batch)
            self._take_decodes(batch)
        return batch

    def _take_chunks(self, batch: Batch) -> None:
        budget = self.token_budget
        for request in self.catching_up:
            num_tokens = min(request.num_missing_tokens, budget)
            if num_tokens and self._take_chunk(batch, request, num_tokens):
                budget -= num_tokens
        if not batch.chunks:
            self._admit_new(batch, budget)

    def _admit_new(self, batch: Batch, budget: int) -> None:
        while self.waiting and budget > 0 and self._num_free_seats > 0:
            request = self.waiting[0]
            if not self.kv.allocate(request, request.num_tokens):
                break
            num_tokens = min(request.num_tokens, budget)
            self._admit(batch, num_tokens)
            budget -= num_tokens


class Ablation(NamedTuple):
    """Median TTFT and P99 TBT of one way, seconds; each the median over the seeds."""

    ttft_p50_s: float
    tbt_p99_s: float


def ablate(
    workload: str, way: str, budget: int, load: float = 1.0, seeds: range = range(0, 90, 10)
) -> Ablation:
    """Serve the ablation's 128 requests in one of WAYS, once per seed.

    budget: of the chunked ways; mixed batches alone take whole prompts. load: times the rate
    of the artifact's script. Raises ValueError for an unknown way.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    found = []
    for seed in seeds:
        lengths = draw_lengths(workload, ABLATION_REQUESTS, seed)
        rate = load * ABLATION_RATES_PER_S[workload]
        arrivals = poisson(rate, ABLATION_REQUESTS, seed + 2)
        schedulers = [_scheduler(workload, way, budget)]
        [trace] = serve(DEPLOYMENTS["yi-34b"], schedulers, Workload(arrivals, *lengths))
        rows = {row["metric"]: row for row in summarize(trace)}
        found.append((rows["ttft_s"]["p50"], rows["itl_s"]["p99"]))
    return Ablation(*np.median(found, axis=0).tolist())


def _scheduler(workload: str, way: str, budget: int) -> Scheduler:
    most = WORKLOADS[workload].most
    used = most if way == "mixed only" else budget
    [scheduler] = make_schedulers(DEPLOYMENTS["yi-34b"], "sarathi", used, most)
    if way == "chunked only":
        return ChunksInTurn(budget, scheduler.max_num_seqs, scheduler.kv)
    return scheduler


def chunking_overhead(prompt: int, chunk_size: int) -> float:
    """Seconds of a prompt of Yi-34B in chunks, alone, relative to one shot."""
    [cost] = stage_costs(DEPLOYMENTS["yi-34b"])

    def prefill_s(size: int) -> float:
        starts = range(0, prompt, size)
        return sum(cost.iteration_s(0, 0, [(None, min(size, prompt - s), s)]) for s in starts)

    return prefill_s(chunk_size) / prefill_s(prompt)
