"""The loop: its clock, its record, and that jumping changes nothing."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.request import Request
from coursekit.schedulers import (
    DecodeFirst,
    InterleavedPrefillDecodeScheduler,
    OrcaMixed,
    PrefillFirst,
    PriorityAwareChunking,
    PriorityTokenBudget,
    StallFree,
    TokenBudget,
)

POLICIES = [
    DecodeFirst, InterleavedPrefillDecodeScheduler, OrcaMixed, PrefillFirst,
    PriorityAwareChunking, PriorityTokenBudget, StallFree, TokenBudget,
]  # fmt: skip


class PlainCost:
    """Easy to do in one's head: 1 s an iteration, 0.01 s a token, 0.0001 s per token of context."""

    label = "simulated (plain)"

    def iteration_s(self, num_decodes, decode_context, chunks):
        tokens = num_decodes + sum(chunk[1] for chunk in chunks)
        return 1.0 + 0.01 * tokens + 0.0001 * (decode_context + sum(chunk[2] for chunk in chunks))

    def decode_run_s(self, num_decodes, decode_context, num_iterations):
        contexts = decode_context + num_decodes * np.arange(num_iterations)
        return 1.0 + 0.01 * num_decodes + 0.0001 * contexts


class Listed:
    """A source of requests given as (arrival_s, prompt, output), sorted by arrival."""

    def __init__(self, rows):
        self.rows = list(enumerate(rows))
        self.next_arrival_s = self.rows[0][1][0] if rows else math.inf

    def take(self, now_s):
        taken = []
        while self.rows and self.rows[0][1][0] <= now_s:
            index, (arrival_s, prompt, output) = self.rows.pop(0)
            cls = ("high", "medium", "low")[index % 3]
            taken.append(Request(index, arrival_s, prompt, output, index % 2, cls))
        self.next_arrival_s = self.rows[0][1][0] if self.rows else math.inf
        return taken

    def finished(self, request, now_s):
        pass


def run(rows, scheduler=None, jump=True, **limits):
    return Engine(scheduler or TokenBudget(512, 16), SimulatedExecutor(PlainCost()), jump).run(
        Listed(rows), **limits
    )


def test_one_request_by_hand():
    trace = run([(5.0, 600, 3)])
    # 512 prompt tokens, the other 88, then two decodes behind 600 and 601 tokens
    costs = [1 + 5.12, 1 + 0.88 + 0.0512, 1.01 + 0.06, 1.01 + 0.0601]
    assert np.allclose(trace.iterations["end_s"], 5.0 + np.cumsum(costs))
    assert trace.iterations["num_prefill_tokens"].tolist() == [512, 88, 0, 0]
    assert trace.iterations["num_decode_tokens"].tolist() == [0, 0, 1, 1]
    row = {name: column[0] for name, column in trace.requests.items()}
    assert (row["arrival_s"], row["first_scheduled_s"]) == (5.0, 5.0)
    assert row["first_token_s"] == pytest.approx(5.0 + sum(costs[:2]))
    assert row["finished_s"] == pytest.approx(5.0 + sum(costs))
    assert row["num_output_tokens"] == 3


def test_the_clock_waits_for_the_next_arrival():
    trace = run([(0.0, 10, 1), (100.0, 10, 1)])
    assert trace.iterations["start_s"].tolist() == [0.0, 100.0]


def test_a_run_ends_at_its_limit_with_the_rest_unfinished():
    trace = run([(0.0, 10, 1), (0.0, 10, 500)], until_s=20.0)
    finished = trace.requests["finished_s"]
    assert finished[0] < 20.0 and math.isnan(finished[1])
    assert trace.iterations["start_s"][-1] < 20.0
    assert 1 < trace.requests["num_output_tokens"][1] < 500


def test_no_requests_give_an_empty_record():
    trace = run([])
    assert trace.num_iterations == trace.num_requests == 0


def test_a_scheduler_that_never_runs_anything_is_reported():
    class Stuck(TokenBudget):
        def _schedule_waiting(self, batch, cap, budget):
            pass

    with pytest.raises(RuntimeError, match="1 requests wait and Stuck can't run any"):
        run([(0.0, 10, 1)], Stuck())


def test_a_record_says_if_its_cost_was_extrapolated():
    class Small(PlainCost):
        extrapolated = False

        def iteration_s(self, num_decodes, decode_context, chunks):
            self.extrapolated = self.extrapolated or decode_context > 50
            return super().iteration_s(num_decodes, decode_context, chunks)

    def extrapolated(length):
        engine = Engine(TokenBudget(), SimulatedExecutor(Small()))
        return engine.run(Listed([(0.0, length, 5)])).info["extrapolated"]

    assert (extrapolated(10), extrapolated(100)) == (False, True)


def test_long_decodes_are_skipped_in_few_scheduler_calls(monkeypatch):
    calls = []
    original = TokenBudget.schedule
    monkeypatch.setattr(TokenBudget, "schedule", lambda self: calls.append(1) or original(self))
    trace = run([(0.0, 10, 1000), (0.0, 20, 800)])
    assert trace.num_iterations == 1000 and len(calls) < 20


rows_drawn = st.lists(
    st.tuples(
        st.one_of(st.just(0.0), st.floats(0.0, 400.0)), st.integers(1, 300), st.integers(1, 200)
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    rows=rows_drawn, policy=st.sampled_from(POLICIES), seqs=st.integers(1, 8),
    spare_blocks=st.sampled_from([0, 3, 20, 10_000]), block_size=st.sampled_from([1, 4, 16]),
)  # fmt: skip
def test_with_and_without_jumps_the_record_is_the_same(rows, policy, seqs, spare_blocks, block_size):
    rows = sorted(rows)
    blocks = spare_blocks + max(-(-(p + o) // block_size) for _, p, o in rows)

    def traced(jump):
        size = "chunk_size" if policy is InterleavedPrefillDecodeScheduler else "token_budget"
        kv = BlockCounter(blocks, block_size)
        scheduler = policy(**{size: 512}, max_num_seqs=seqs, kv=kv)
        return run(rows, scheduler, jump)

    jumped, walked = traced(True), traced(False)
    for table in ("iterations", "chunks", "runs", "requests"):
        for name, column in getattr(walked, table).items():
            other = getattr(jumped, table)[name]
            if column.dtype == float:
                assert np.allclose(column, other, rtol=1e-9, atol=0, equal_nan=True), (table, name)
            else:
                assert np.array_equal(column, other), (table, name)
