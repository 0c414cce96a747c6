"""Sweeps: the same outcomes wherever they run, in the order of the points, whatever breaks."""

import os
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from coursekit.optimizers.processes import Processes
from coursekit.optimizers.sweeps import Outcome, open_executor, sweep
from tests.optimizers.sweep_points import die, throughput, unpicklable

BUDGETS = [64, 0, 512, 256]  # 0 is refused
REFUSED = "ValueError: token_budget must be >= 1, got 0"


@pytest.fixture(scope="module")
def processes():
    with Processes(2) as executor:
        yield executor


def test_each_point_has_its_outcome_in_order_and_a_failure_stops_nobody():
    outcomes = sweep(throughput, BUDGETS)
    assert [outcome.point for outcome in outcomes] == BUDGETS
    assert outcomes[1] == Outcome(0, None, REFUSED)
    values = [outcomes[k].value for k in (0, 2, 3)]
    assert values == [throughput(budget) for budget in (64, 512, 256)] and len(set(values)) == 3


def test_processes_and_threads_give_what_this_process_gives(processes):
    here = sweep(throughput, BUDGETS)
    assert sweep(throughput, BUDGETS, processes) == here
    with ThreadPoolExecutor(2) as threads:
        assert sweep(throughput, BUDGETS, threads) == here


def test_outcomes_are_in_order_though_they_come_in_another():
    with ThreadPoolExecutor(4) as threads:
        outcomes = sweep(lambda s: (time.sleep(s), s)[1], [0.2, 0.0, 0.1], threads)
    assert [outcome.value for outcome in outcomes] == [0.2, 0.0, 0.1]


def test_a_point_that_kills_its_worker_is_reported_and_the_rest_is_not_lost(processes):
    budgets = [64, 13, 512, 256, 128, 96, 13, 48]
    outcomes = sweep(die, budgets, processes)
    for budget, outcome in zip(budgets, outcomes, strict=True):
        if budget == 13:
            assert outcome.value is None
            assert outcome.error.startswith("BrokenProcessPool: ")
            assert outcome.error.endswith("(tried 2 times)")
        else:
            assert outcome == Outcome(budget, throughput(budget))
    assert sweep(throughput, [64], processes)[0].error is None  # and it goes on


def test_an_executor_that_stays_broken_leaves_an_error_at_each_point_it_took_down():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        outcomes = sweep(die, [13, 64], pool)
    assert all("BrokenProcessPool" in outcome.error for outcome in outcomes)


def test_an_executor_that_is_shut_down_is_an_error_at_each_point_not_a_hang():
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    outcomes = sweep(throughput, [64, 128], pool)
    assert all("cannot schedule new futures" in outcome.error for outcome in outcomes)


def test_a_value_that_can_t_travel_is_the_error_of_its_point(processes):
    [outcome] = sweep(unpicklable, [64], processes)
    assert outcome.value is None and "pickle" in outcome.error.lower()


def test_a_point_that_exits_does_not_end_the_sweep():
    def leave(code):
        raise SystemExit(code)

    assert [outcome.error for outcome in sweep(leave, [1, 2])] == ["SystemExit: 1", "SystemExit: 2"]


def test_an_interrupt_is_passed_on_and_what_has_not_begun_does_not():
    started = []

    def run(point):
        started.append(point)
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        sweep(run, range(50))
    assert started == [0]


def test_progress_counts_the_runs_and_the_failures(capsys):
    sweep(throughput, BUDGETS, progress=True)
    shown = capsys.readouterr().err
    assert "4/4" in shown and "failed=1" in shown
    sweep(throughput, [64])
    assert capsys.readouterr().err == ""


def test_no_points_are_no_outcomes(processes):
    assert sweep(throughput, [], processes) == []


def test_the_default_executor_is_processes_of_this_one():
    with open_executor(num_workers=1) as executor:
        assert executor.num_workers == 1
        assert executor.submit(os.getppid).result() == os.getpid()


@pytest.mark.parametrize("num_workers", [0, -1])
def test_less_than_one_worker_is_refused(num_workers):
    with pytest.raises(ValueError, match=f"num_workers must be >= 1, got {num_workers}"):
        Processes(num_workers)


def test_the_package_gives_the_function_also_when_its_module_is_loaded():
    import coursekit.optimizers

    assert coursekit.optimizers.sweep is sweep
