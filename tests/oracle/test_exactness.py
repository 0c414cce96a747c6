"""Our TokenBudget and PriorityTokenBudget decide as vLLM 0.32 does, and a wrong one is caught."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coursekit.kv_cache import PrefixCachingBlocks
from coursekit.schedulers import PriorityTokenBudget, TokenBudget
from tests.oracle.ours import make_scheduler, our_steps
from tests.oracle.schedule import Step, first_difference, side_by_side
from tests.oracle.strategies import Arrival, Case, Settings, cases, random_case

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="no vLLM on this platform to compare with"
)
thorough = settings(
    max_examples=500,
    deadline=None,
    database=None,  # every run stands alone
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@needs_vllm
@thorough
@given(case=cases())
def test_every_decision_is_the_one_of_vllm(case):
    from tests.oracle.compare import compare

    wrong = compare(case)[1]
    assert wrong is None, f"\n{wrong}"


# --- A checker that can't fail proves nothing: schedulers with one fault each ---


class OneTokenShort(TokenBudget):
    def schedule(self):
        self.token_budget -= 1
        try:
            return super().schedule()
        finally:
            self.token_budget += 1


class FirstAdmittedIsVictim(TokenBudget):
    def _victim(self, queue):
        return queue[0]


class AdmitsWithoutReserve(TokenBudget):
    def __init__(self, **limits):
        super().__init__(**{**limits, "reserve_full_isl": False})


class AdmitsAfterPreemption(TokenBudget):
    def _schedule_running_one_by_one(self, batch, cap):
        budget = super()._schedule_running_one_by_one(batch, cap)
        self._schedule_waiting(batch, cap, budget)
        return 0


class DecodesAlwaysFirst(TokenBudget):
    def _decodes_come_first(self):
        return True


class ForgetsPriorityOfVictims(PriorityTokenBudget):
    def _victim(self, queue):
        return queue[-1]


class FreesBeginningsFirst(PrefixCachingBlocks):
    def release(self, request):
        self._held.get(request, []).reverse()
        super().release(request)


class CachesTheLastTokenToo(PrefixCachingBlocks):
    def num_cached_tokens(self, request):
        return len(self._find(request, request.num_tokens)) * self.block_size


class AdoptsForNothing(PrefixCachingBlocks):
    def fits(self, request, num_tokens, num_cached_tokens=0):
        adopted = self._find(request, num_cached_tokens) if not request.num_blocks else []
        idle = sum(self._num_users[block] == 0 for block in adopted)
        self.num_free += idle
        try:
            return super().fits(request, num_tokens, num_cached_tokens)
        finally:
            self.num_free -= idle


FAULTS = {
    "fcfs": [
        OneTokenShort, FirstAdmittedIsVictim, AdmitsWithoutReserve, AdmitsAfterPreemption,
        DecodesAlwaysFirst,
    ],
    "priority": [ForgetsPriorityOfVictims],
    "caching": [FreesBeginningsFirst, CachesTheLastTokenToo, AdoptsForNothing],
}  # fmt: skip


@needs_vllm
@pytest.mark.parametrize(
    "part, fault", [(part, fault) for part, faults in FAULTS.items() for fault in faults]
)
def test_a_planted_fault_is_found_and_shown_on_a_small_case(part, fault):
    from tests.oracle.compare import compare, shrink

    def wrong_with(case):
        return compare(case, lambda limits: make_scheduler(limits, **{part: fault}))[1]

    found = next(case for case in map(random_case, range(1000)) if wrong_with(case))
    smallest = shrink(found, lambda case: wrong_with(case) is not None, most_trials=300)
    table = wrong_with(smallest)
    assert len(smallest.arrivals) <= 2
    assert sum(line.startswith(">>") for line in table.splitlines()) == 1 or "raised" in table
    assert "vLLM" in table and "ours" in table


@needs_vllm
def test_the_long_run_counts_what_it_saw_and_gives_a_verdict(course_root):
    command = [sys.executable, "-m", "tests.oracle", "--cases", "30", "--processes", "1"]
    result = subprocess.run(command, cwd=course_root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^ +30  cases$", result.stdout, re.MULTILINE)
    assert re.search(r"^ +[1-9]\d*  admissions with a hit$", result.stdout, re.MULTILINE)
    assert result.stdout.endswith("Same decision as vLLM in every step of all 30 cases.\n")


@needs_vllm
def test_the_long_run_shows_a_mismatch_and_fails(capsys, monkeypatch):
    from tests.oracle import __main__, compare

    wrong = functools.partial(make_scheduler, fcfs=OneTokenShort, priority=OneTokenShort)
    monkeypatch.setattr(compare.compare, "__defaults__", (wrong,))
    assert __main__._report(Counter(cases=3), failed=2, duration_s=1.0) == 1
    printed = capsys.readouterr().out
    assert "MISMATCH with seed 2" in printed and "\n>>  0 " in printed


def test_the_table_marks_the_first_step_that_differs():
    case = Case(Settings(8, 1, 10, 4, 64), (Arrival(0, 9, 1),))
    theirs = [Step({0: (0, 8)}, (), 8), Step({0: (8, 1)}, (), 7)]
    ours = [Step({0: (0, 8)}, (), 8), Step({}, (0,), 10), Step({0: (0, 8)}, (), 8)]
    assert first_difference(theirs, theirs) is None
    assert first_difference(theirs, ours) == 1
    assert side_by_side(case, theirs, ours).splitlines()[-4:] == [
        "    step  vLLM         ours",
        "    0     0:0+8 | 8    0:0+8 | 8",
        ">>  1     0:8+1 | 7    -0 | 10",
        "    2     (has ended)  0:0+8 | 8",
    ]


# --- Without vLLM: the group of decodes is a shortcut, never a different decision ---


class WalksAlways(TokenBudget):
    def _schedule_running_at_once(self, batch, cap):
        return None


class WalksAlwaysByPriority(PriorityTokenBudget):
    def _schedule_running_at_once(self, batch, cap):
        return None


@thorough
@given(case=cases())
def test_serving_the_decodes_at_once_decides_as_walking_them_does(case):
    def walking(limits):
        return make_scheduler(limits, fcfs=WalksAlways, priority=WalksAlwaysByPriority)

    assert list(our_steps(case)) == list(our_steps(case, walking))


@given(seed=st.integers(0, 10**9))
def test_the_same_case_gives_the_same_schedule(seed):
    case = random_case(seed)
    assert case.is_possible() and case == random_case(seed)
    assert list(our_steps(case)) == list(our_steps(case))
