"""A record read by iteration: against the record's own counts, and against tokens one by one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.analyzers.replay import Replay
from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import PrefillFirst, TokenBudget
from coursekit.trace import CHUNKS, RUNS
from tests.test_engine import rows_drawn, run

ROWS = [(0.0, 300, 6), (0.5, 40, 9), (3.0, 900, 4), (4.0, 10, 1), (60.0, 50, 3)]


def in_chunks_only(trace):
    """The same record as a live vLLM leaves it: each token is a chunk, and there are no runs."""
    replay = Replay(trace)
    decodes = replay.decode_cells(0, trace.num_iterations)
    prompts = dict(zip(trace.requests["request"], trace.requests["num_prompt_tokens"]))
    added = []
    for request, iteration in sorted(zip(*decodes[:2]), key=lambda pair: pair[1]):
        before = sum(a[1] == request for a in added)
        added.append((iteration, request, 1, prompts[request] + before, 1))
    rows = list(zip(*(trace.chunks[name] for name in CHUNKS))) + added
    rows.sort(key=lambda row: row[0])
    chunks = dict(zip(CHUNKS, (np.array(column) for column in zip(*rows))))
    iterations = trace.iterations | {"is_decode_step": np.zeros(trace.num_iterations, "i4")}
    no_runs = {name: np.zeros(0, "i8") for name in RUNS}
    return dataclasses.replace(
        trace, iterations=iterations, chunks=chunks, runs=no_runs, label="live (test device)"
    )


@settings(max_examples=25, deadline=None)
@given(
    rows=rows_drawn, policy=st.sampled_from([TokenBudget, PrefillFirst]),
    spare_blocks=st.integers(0, 30),
)  # fmt: skip
def test_each_iteration_ran_what_the_record_counts(rows, policy, spare_blocks):
    blocks = spare_blocks + max(-(-(p + o) // 4) for _, p, o in rows)
    trace = run(
        sorted(rows), policy(token_budget=64, max_num_seqs=6, kv=BlockCounter(blocks, 4))
    )
    replay, table = Replay(trace), trace.iterations
    for k in range(trace.num_iterations):
        ran = replay.iteration(k)
        assert ran.num_prefill_tokens == table["num_prefill_tokens"][k]
        assert len(ran.decodes) == table["num_decode_tokens"][k]
        prefilled = {request for request, _, _ in ran.prefills}
        served = prefilled | set(ran.decodes)
        assert not served & {*ran.waiting, *ran.standing}
        # who lost its blocks has run before, so that it stands here and waits there
        assert len(served) + len(ran.standing) + len(ran.waiting) == (
            table["num_running"][k] + table["num_waiting"][k]
        )


@settings(max_examples=25, deadline=None)
@given(rows=rows_drawn, spare_blocks=st.integers(0, 30))
def test_the_worst_gap_so_far_is_that_of_the_tokens(rows, spare_blocks):
    blocks = spare_blocks + max(-(-(p + o) // 4) for _, p, o in rows)
    trace = run(sorted(rows), TokenBudget(64, 6, BlockCounter(blocks, 4)))
    replay = Replay(trace)
    times = [trace.token_times_s(index) for index in trace.requests["request"]]
    ends = np.concatenate([each[1:] for each in times])
    gaps = np.concatenate([np.diff(each) for each in times])
    for k in range(trace.num_iterations):
        past = gaps[ends <= trace.iterations["end_s"][k]]
        worst = past.max() if len(past) else np.nan
        assert np.isclose(replay.iteration(k).worst_gap_s, worst, equal_nan=True)


def test_a_live_record_without_runs_reads_the_same():
    trace = run(ROWS)
    engine, live = Replay(trace), Replay(in_chunks_only(trace))
    for k in range(trace.num_iterations):
        np.testing.assert_equal(tuple(live.iteration(k)), tuple(engine.iteration(k)))


def test_one_iteration_by_hand():
    replay = Replay(run(ROWS, TokenBudget(512, 16)))
    first, second = replay.iteration(0), replay.iteration(1)
    assert first.prefills == [(0, 300, 0)] and first.decodes == [] and first.waiting == []
    assert (first.start_s, first.end_s) == (0.0, 4.0)
    assert np.isnan(first.worst_gap_s)
    # by 4 s requests 1 to 3 have come: 1 token for request 0, 40 for 1, the rest for 2
    assert second.prefills == [(1, 40, 0), (2, 471, 0)] and second.decodes == [0]
    assert second.waiting == [3] and second.standing == []
    assert second.worst_gap_s == pytest.approx(second.end_s - 4.0)


def test_prefill_first_lets_decodes_stand():
    replay = Replay(run(ROWS, PrefillFirst(512, 16)))
    ran = replay.iteration(1)
    assert [request for request, _, _ in ran.prefills] == [1] and ran.standing == [0]


def test_cells_of_a_stretch_are_those_of_its_iterations():
    replay = Replay(run(ROWS))
    rans = [replay.iteration(k) for k in range(2, 9)]
    decodes, prefills = replay.decode_cells(2, 9), replay.prefill_cells(2, 9)
    expected = [(request, ran.iteration) for ran in rans for request in ran.decodes]
    assert sorted(zip(decodes.request, decodes.iteration)) == sorted(expected)
    expected = [(r, ran.iteration, n) for ran in rans for r, n, _ in ran.prefills]
    assert sorted(zip(*prefills)) == sorted(expected)
    only = replay.decode_cells(2, 9, np.array([1]))
    assert set(only.request) == {1} and len(only.request) == sum(1 in r.decodes for r in rans)


def test_a_moment_finds_its_iteration_or_the_one_before():
    replay = Replay(run(ROWS))
    assert replay.at(-1.0) == (-1, False)
    assert replay.at(0.0) == (0, True) and replay.at(3.9) == (0, True)
    assert replay.at(4.0) == (1, True)
    idle = int(np.argmax(np.diff(replay.start_s) - (replay.end_s - replay.start_s)[:-1] > 1))
    assert replay.at(59.0) == (idle, False)
    assert replay.at(1e9) == (replay.num_iterations - 1, False)


def test_an_unfinished_request_is_there_to_the_end():
    trace = run([(0.0, 100, 50), (0.0, 400, 50)], TokenBudget(64, 16), until_s=6.0)
    replay = Replay(trace)
    assert replay.last_iteration.tolist() == [trace.num_iterations - 1] * 2


@pytest.mark.parametrize("iteration", [-1, 10**6])
def test_an_iteration_that_is_not_there_is_refused(iteration):
    with pytest.raises(ValueError, match=rf"iteration must be in 0\.\.\d+, got {iteration}"):
        Replay(run(ROWS)).iteration(iteration)


def test_a_record_without_iterations_is_refused():
    with pytest.raises(ValueError, match="at least 1 iteration to be shown, got 0: run the engine"):
        Replay(run([]))
