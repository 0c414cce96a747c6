"""Blocking time: by hand, against a slow account of every gap, and with its sums kept."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.analyzers import BlockingAnalysis, compare_blocking
from coursekit.analyzers import blocking_sums, decode_baseline
from coursekit.analyzers.blocking_sums import BlockingSums
from coursekit.analyzers.replay import Replay
from coursekit.cost import FormulaCost, RooflineCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter, PrefixCachingBlocks
from coursekit.live import TorchEngine
from coursekit.schedulers import OrcaMixed, PrefillFirst, StallFree, TokenBudget
from coursekit.workload import Workload
from tests.analyzers.test_replay import in_chunks_only
from tests.schedulers.workloads import OPTIONS, makers, workloads
from tests.test_engine import PlainCost, run

COST = PlainCost()
# Five that decode need more KV than there is: each of the last is preempted and computed again.
CROWD = [(0.0, 12, 20), (0.0, 9, 20), (0.0, 11, 20), (2.5, 14, 20), (2.5, 7, 9)]


def crowded():
    return run(CROWD, StallFree(16, kv=BlockCounter(18, block_size=4)))


def slow_account(trace, cost):
    """Every gap of every request, iteration by iteration, as the definition has it."""
    replay = Replay(trace)
    rans = [replay.iteration(k) for k in range(trace.num_iterations)]
    came = {int(r): [] for r in trace.requests["request"]}  # iterations of each request's tokens
    columns = (trace.chunks[name].tolist() for name in ("request", "iteration", "samples"))
    for r, k, sampled in zip(*columns):
        if sampled and r not in rans[k].decodes:
            came[r].append(k)
    for k, ran in enumerate(rans):
        for r in ran.decodes:
            came[r].append(k)
    came = {r: sorted(at) for r, at in came.items()}
    prompts = dict(zip(trace.requests["request"].tolist(), trace.requests["num_prompt_tokens"]))

    def alone_s(ran):
        if not ran.decodes or not ran.num_prefill_tokens:
            return ran.end_s - ran.start_s if ran.decodes else 0.0
        held = sum(prompts[r] + came[r].index(ran.iteration) - 1 for r in ran.decodes)
        return min(cost.iteration_s(len(ran.decodes), held, ()), ran.end_s - ran.start_s)

    base = [alone_s(ran) for ran in rans]
    kinds = {r: dict.fromkeys(("baseline_s", "blocked_s", "waiting_s"), 0.0) for r in came}
    pairs, worst = {}, {r: np.nan for r in came}
    for r, at in came.items():
        for p, q in zip(at, at[1:]):
            blocked = 0.0
            for k in range(p + 1, q + 1):
                ran, mine = rans[k], kinds[r]
                mine["waiting_s"] += ran.start_s - rans[k - 1].end_s
                mine["baseline_s" if r in ran.decodes else "waiting_s"] += base[k]
                for other, size, _ in ran.prefills:
                    share = (ran.end_s - ran.start_s - base[k]) * size / ran.num_prefill_tokens
                    if other == r:
                        mine["waiting_s"] += share
                        continue
                    blocked += share
                    pairs[other, r] = pairs.get((other, r), 0.0) + share
            kinds[r]["blocked_s"] += blocked
            worst[r] = blocked if np.isnan(worst[r]) else max(worst[r], blocked)
    return kinds, {pair: s for pair, s in pairs.items() if s > 0}, worst


def assert_same_as_slow(trace, cost=COST):
    found = BlockingAnalysis.of(trace, cost)
    kinds, pairs, worst = slow_account(trace, cost)
    rows = found.by_request.set_index("request")
    near = {"rtol": 1e-9, "atol": 1e-9}
    for r, mine in kinds.items():
        for name, seconds in mine.items():
            np.testing.assert_allclose(rows.loc[r, name], seconds, err_msg=f"{name} {r}", **near)
        np.testing.assert_allclose(rows.loc[r, "worst_s"], worst[r], **near)
    table = found.who_blocked_whom
    got = dict(zip(zip(table.blocker, table.blocked), table.seconds))
    for pair in got.keys() | pairs.keys():
        np.testing.assert_allclose(got.get(pair, 0.0), pairs.get(pair, 0.0), **near)
    assert_sums_are_kept(found)
    return found


def assert_sums_are_kept(found):
    rows, pairs, iterations = found.by_request, found.who_blocked_whom, found.by_iteration
    near = {"rtol": 1e-9, "atol": 1e-9}
    parts = rows.baseline_s + rows.blocked_s + rows.waiting_s
    np.testing.assert_allclose(parts, rows.itl_s, **near)
    for name, column in (("blocked", "blocked_s"), ("blocker", "caused_s")):
        sums = pairs.groupby(name).seconds.sum().reindex(rows.request, fill_value=0.0)
        np.testing.assert_allclose(sums, rows[column], **near)
    np.testing.assert_allclose(iterations.blocked_s.sum(), found.blocked_s, **near)
    np.testing.assert_allclose((found.gaps[0] * found.gaps[1]).sum(), found.blocked_s, **near)
    assert found.num_gaps == rows.num_gaps.sum()
    for table in (rows.drop(columns="worst_s"), iterations, pairs):
        assert (table >= 0).all(axis=None)
    assert (rows.standing_s <= rows.blocked_s + 1e-9).all()
    assert not (pairs.blocker == pairs.blocked).any()


# --- By hand ---


def test_a_small_case_by_hand():
    # 0 decodes when 1 arrives; its 100 tokens run beside a decode of 0: 1.0 s + 1.01 s for tokens
    trace = run([(0.0, 10, 4), (1.5, 100, 2)], TokenBudget(512, 16))
    found = BlockingAnalysis.of(trace, COST)
    ends = np.cumsum([1.10, 1.011, 2.0111, 1.0222])  # the last: two decodes, behind 12 and 100
    ends[3] = ends[2] + 1 + 0.02 + 0.0001 * (12 + 100)
    np.testing.assert_allclose(trace.iterations["end_s"], ends)
    first, second = found.by_request.itertuples()
    # without the 100 prompt tokens, the third iteration is one decode behind 11: 1.0111 s
    assert first.blocked_s == pytest.approx(2.0111 - 1.0111) == first.worst_s
    assert first.itl_s == pytest.approx(ends[3] - ends[0]) and first.num_gaps == 3
    assert first.baseline_s == pytest.approx(1.011 + 1.0111 + 1.0312)
    assert (first.waiting_s, first.standing_s, second.blocked_s) == (0, 0, 0)
    assert second.caused_s == pytest.approx(1.0)
    pairs = found.who_blocked_whom
    assert pairs[["blocker", "blocked"]].values.tolist() == [[1, 0]]
    assert found.by_iteration.blocking_s.tolist() == pytest.approx([1.1, 0, 1.0, 0])
    assert found.by_iteration.num_blocked.tolist() == [0, 0, 1, 0]
    assert found.baseline == "the decodes alone, simulated (plain)"


def test_a_stand_still_of_several_iterations_counts_whole_and_is_shared_by_tokens():
    # prefill first, 60 tokens an iteration: request 0 stands while 1 and then 2 are prefilled
    trace = run([(0.0, 10, 3), (1.5, 40, 1), (1.5, 60, 1)], PrefillFirst(60, 16))
    found = BlockingAnalysis.of(trace)
    stood = trace.iterations["num_decode_tokens"] == 0
    stood[0] = False
    gap_s = (trace.iterations["end_s"] - trace.iterations["start_s"])[stood].sum()
    row = found.by_request.iloc[0]
    assert stood.sum() == 2
    assert row.blocked_s == row.worst_s == row.standing_s == pytest.approx(gap_s)
    by = dict(zip(found.who_blocked_whom.blocker, found.who_blocked_whom.seconds))
    assert by[1] + by[2] == pytest.approx(gap_s)
    chunk_of_1 = trace.iterations["end_s"] - trace.iterations["start_s"]
    at = trace.chunks["iteration"][trace.chunks["request"] == 1][0]
    beside = trace.chunks["num_tokens"][trace.chunks["iteration"] == at].sum()
    assert by[1] == pytest.approx(chunk_of_1[at] * 40 / beside)


def test_what_a_preempted_request_computes_again_is_waiting_and_not_blocked_by_itself():
    trace = crowded()
    found = assert_same_as_slow(trace)
    again = trace.requests["num_preemptions"] > 0
    assert again.tolist() == [False, False, True, True, True]
    assert (found.by_request.waiting_s > 0).tolist() == again.tolist()
    assert "Another" in found.findings() and "preemptions" in found.findings()


# --- Against the slow account ---


@pytest.mark.parametrize("policy", OPTIONS, ids=lambda policy: policy.__name__)
def test_every_gap_is_accounted_for_as_the_definition_has_it(policy):
    @settings(max_examples=40, deadline=None)
    @given(data=st.data(), arrivals=workloads)
    def check(data, arrivals):
        rows = [(float(a.step), a.num_prompt_tokens, a.max_tokens) for a in arrivals]
        scheduler = data.draw(makers(policy))()
        until_s = data.draw(st.sampled_from([np.inf, 15.0]))
        assert_same_as_slow(run(rows, scheduler, until_s=until_s))

    check()


@pytest.mark.parametrize("cost", [FormulaCost(), RooflineCost("a100", "llama-2-7b")])
def test_the_sums_are_kept_under_other_costs(cost):
    workload = Workload([0, 0, 0.05, 0.1] * 5, [300, 40, 900, 10] * 5, [30, 60, 20, 9] * 5)
    for policy in (TokenBudget, PrefillFirst, OrcaMixed):
        trace = Engine(policy(256, 16), SimulatedExecutor(cost)).run(workload.source())
        assert assert_same_as_slow(trace, cost).blocked_s > 0


def test_a_prefix_cache_and_a_record_without_runs_are_read_the_same():
    ids = [[1] * 40, [1] * 32 + [2] * 9, [1] * 32 + [3] * 30]
    workload = Workload([0, 3, 3], [40, 41, 62], [9, 9, 4], prompt_token_ids=ids)
    scheduler = TokenBudget(16, 4, PrefixCachingBlocks(30, 4))
    cached = Engine(scheduler, SimulatedExecutor(COST)).run(workload.source())
    assert cached.requests["num_cached_tokens"].sum() and assert_same_as_slow(cached).blocked_s > 0
    trace = run([(0.0, 300, 6), (0.5, 40, 9), (3.0, 900, 4), (4.0, 10, 1)])
    live = BlockingAnalysis.of(in_chunks_only(trace), COST)
    for column, values in BlockingAnalysis.of(trace, COST).by_request.items():
        np.testing.assert_allclose(live.by_request[column], values, rtol=1e-9, atol=1e-9)


def shares_by_head(patch):
    """Each chunk of an iteration takes the same share, whatever its tokens."""
    build = BlockingSums.of.__func__

    def of(cls, trace, baseline_s):
        sums = build(cls, trace, baseline_s)
        heads = np.bincount(sums.chunk_at, minlength=trace.num_iterations)[sums.chunk_at]
        sums.chunk_s[:] = sums.blocking_s[sums.chunk_at] / heads
        return sums

    patch.setattr(BlockingSums, "of", classmethod(of))


def blocked_by_itself(patch):
    patch.setattr(BlockingSums, "_own", lambda self, row, after, until: np.zeros(len(row)))


def stand_still_forgotten(patch):
    patch.setattr(BlockingSums, "blocked", lambda self: self.in_decodes(self.blocking_s))


def contexts_forgotten(patch):
    patch.setattr(
        decode_baseline, "decode_contexts",
        lambda trace, pieces: np.zeros(trace.num_iterations, int),
    )


def one_iteration_early(patch):
    patch.setattr(
        blocking_sums, "_between",
        lambda values, after, until: np.cumsum(values)[until - 1] - np.cumsum(values)[after - 1],
    )  # fmt: skip


@pytest.mark.parametrize("fault", [
    shares_by_head, blocked_by_itself, stand_still_forgotten, contexts_forgotten,
    one_iteration_early,
])  # fmt: skip
def test_planted_faults_are_seen(monkeypatch, fault):
    trace = crowded()
    assert_same_as_slow(trace)
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same_as_slow(trace)


# --- The baseline without a cost model ---


def test_the_estimate_comes_near_the_exact_one():
    cost = RooflineCost("a100", "llama-2-7b")
    rng = np.random.default_rng(0)
    workload = Workload(
        np.cumsum(rng.exponential(0.3, 150)), rng.integers(20, 2000, 150), rng.integers(5, 200, 150)
    )
    trace = Engine(TokenBudget(512, 64), SimulatedExecutor(cost)).run(workload.source())
    exact, estimated = BlockingAnalysis.of(trace, cost), BlockingAnalysis.of(trace)
    assert estimated.baseline.startswith("fitted to") and "fitted" not in exact.baseline
    assert estimated.blocked_s == pytest.approx(exact.blocked_s, rel=0.01)


def test_few_iterations_of_decodes_alone_give_a_median():
    trace = run([(0.0, 10, 4), (1.5, 100, 2)], TokenBudget(512, 16))
    found = BlockingAnalysis.of(trace)
    assert found.baseline.startswith("median of the iterations of decodes alone")
    # the third iteration had one decode; so had the second alone: 1.011 s
    assert found.by_request.blocked_s[0] == pytest.approx(2.0111 - 1.011)


def test_a_stall_of_the_machine_does_not_spoil_the_fit():
    trace = run([(0.0, 10, 60), (1.5, 100, 40), (20.0, 300, 20)], TokenBudget(64, 16))
    alone = np.flatnonzero(trace.iterations["num_prefill_tokens"] == 0)
    clean = BlockingAnalysis.of(trace)
    for k in alone[5::15]:  # that iteration takes 5 s longer, and all later ones begin later
        trace.iterations["end_s"][k:] += 5.0
        trace.iterations["start_s"][k + 1 :] += 5.0
    assert BlockingAnalysis.of(trace).blocked_s == pytest.approx(clean.blocked_s, rel=1e-3)


def test_a_record_of_mixed_iterations_alone_needs_a_cost():
    trace = run([(0.0, 10, 2), (0.5, 100, 1)], TokenBudget(512, 16))
    with pytest.raises(ValueError, match="1 iterations mix.* 0 run decodes alone.*pass the cost"):
        BlockingAnalysis.of(trace)
    assert BlockingAnalysis.of(trace, COST).blocked_s > 0


def test_a_live_run_keeps_its_sums(tiny_model):
    engine = TorchEngine(tiny_model, TokenBudget(24, 4), 200)
    workload = Workload([0, 0, 0.02, 0.04], [20, 9, 120, 60], [60, 50, 9, 9])
    found = BlockingAnalysis.of(engine.run(workload.source()))
    assert_sums_are_kept(found)
    assert found.label.startswith("live (") and found.blocked_s > 0
    assert (found.by_request.waiting_s <= 0.5 * found.by_request.itl_s + 1e-9).all()


# --- Nothing to find, and what can't be asked ---


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=6))
def test_without_prefill_between_tokens_blocking_is_zero(lengths):
    trace = run([(100.0 * k, prompt, output) for k, (prompt, output) in enumerate(lengths)])
    found = BlockingAnalysis.of(trace, COST)
    assert found.blocked_s == 0 and found.who_blocked_whom.empty
    assert (found.by_request[["blocked_s", "caused_s", "waiting_s"]] == 0).all(axis=None)
    said = "0" if found.num_gaps else "nobody could be blocked"
    assert said in found.findings()


def test_an_empty_record_is_refused():
    with pytest.raises(ValueError, match="at least 1 iteration to be analyzed, got 0"):
        BlockingAnalysis.of(run([]))


# --- Before and after ---


def test_before_and_after_of_the_same_requests():
    rows = [(0.0, 10, 40), (5.0, 3000, 4), (30.0, 2000, 4)]
    before = BlockingAnalysis.of(run(rows, PrefillFirst(4096, 16)), COST)
    after = BlockingAnalysis.of(run(rows, TokenBudget(128, 16)), COST)
    change = compare_blocking(before, after)
    table = change.table.set_index("what")
    worst = table.loc["worst gap"]
    assert (worst.before, worst.after) == (before.worst_s, after.worst_s)
    assert worst.reduction == pytest.approx(1 - after.worst_s / before.worst_s)
    assert worst.reduction > 0.9
    total = table.loc["blocking of all requests"]
    assert total.before == before.blocked_s and total.after == after.blocked_s
    saved = change.by_request.set_index("request").loc[0]
    assert saved.saved_s == pytest.approx(saved.before_s - saved.after_s)
    said = change.findings()
    assert f"by {worst.reduction:.0%}" in said and "falls from" in said
    back = compare_blocking(after, before).findings()
    assert "its worst gap rises" in back


def test_the_words_follow_the_numbers():
    rows = [(0.0, 10, 60), (1.5, 400, 2)]
    small, large = (BlockingAnalysis.of(run(rows, TokenBudget(n, 16)), COST) for n in (11, 512))
    # PlainCost charges 1 s an iteration, which decodes pay anyway: the same blocking, spread
    said = compare_blocking(large, small).findings()
    assert "its worst gap falls" in said
    assert "in iterations that also gave the blocked requests a token" in small.findings()
    stood = BlockingAnalysis.of(run(rows, PrefillFirst(512, 16)), COST).findings()
    assert "All of it was spent standing still" in stood
    assert "Request 1, with a prompt of 400 tokens" in stood
    none = BlockingAnalysis.of(run([(0.0, 10, 5)]), COST)
    assert "rises from 0 to" in compare_blocking(none, BlockingAnalysis.of(
        run([(0.0, 10, 5), (1.2, 50, 2)]), COST)).findings()  # fmt: skip


def test_runs_of_other_requests_are_refused():
    one = BlockingAnalysis.of(run([(0.0, 10, 5)]), COST)
    other = BlockingAnalysis.of(run([(0.0, 11, 5)]), COST)
    with pytest.raises(ValueError, match="request 0 has prompts of different lengths"):
        compare_blocking(one, other)
