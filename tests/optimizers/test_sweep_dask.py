"""Sweeps on a real Dask cluster of two worker processes, one of them killed in mid-sweep."""

import os
import signal
import threading
import time

import pytest

from coursekit.optimizers.sweeps import Outcome, open_executor, sweep
from tests.optimizers.sweep_points import Slow, slow_throughput, throughput

dask = pytest.importorskip("dask", reason="a sweep over machines needs distributed")
distributed = pytest.importorskip("distributed")

BUDGETS = [64, 0, 512, 256, 128, 96, 48, 32, 80, 112]


@pytest.fixture(scope="module")
def address():
    """Of the scheduler of two workers, one thread each; a killed one is started anew."""
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.comm.timeouts.connect": "10s",
        "distributed.admin.log-format": "%(message)s",
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            host="127.0.0.1", silence_logs=50,
        ) as cluster,
    ):  # fmt: skip
        yield cluster.scheduler_address


def attempts(folder, budget) -> list[int]:
    """Process ids of those that ran a point, in order."""
    path = folder / str(budget)
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


def kill_the_worker_of(folder, budget, killed: list[int]) -> None:
    """Wait until some worker runs the point of this budget, and kill that worker."""
    give_up = time.monotonic() + 30
    while not (pids := attempts(folder, budget)):
        if time.monotonic() > give_up:
            return
        time.sleep(0.01)
    os.kill(pids[0], signal.SIGKILL)
    killed.append(pids[0])


def test_the_outcomes_are_those_of_this_process_though_a_worker_is_killed(address, tmp_path):
    points, killed = [Slow(str(tmp_path), budget) for budget in BUDGETS], []
    killer = threading.Thread(target=kill_the_worker_of, args=(tmp_path, 256, killed))
    with open_executor(address) as executor:
        killer.start()
        outcomes = sweep(slow_throughput, points, executor)
        killer.join()
    assert [outcome.point for outcome in outcomes] == points
    assert [(o.value, o.error) for o in outcomes] == [
        (o.value, o.error) for o in sweep(throughput, BUDGETS)
    ]
    # the point was under way in the worker that was killed, and another one ran it again
    tried = attempts(tmp_path, 256)
    assert killed == tried[:1] and len(tried) >= 2 and killed[0] not in tried[1:]
    workers = {pid for budget in BUDGETS for pid in attempts(tmp_path, budget)}
    assert os.getpid() not in workers and len(workers) >= 2


def test_a_point_that_kills_every_worker_is_reported_and_not_fatal(address, tmp_path):
    points = [Slow(str(tmp_path), budget) for budget in (64, 13, 96)]
    with open_executor(address) as executor:
        outcomes = sweep(slow_throughput, points, executor)
    assert outcomes[0] == Outcome(points[0], throughput(64))
    assert outcomes[2] == Outcome(points[2], throughput(96))
    assert outcomes[1].value is None and outcomes[1].error.startswith("KilledWorker: ")
    assert len(attempts(tmp_path, 13)) >= 2


def test_an_address_where_nobody_answers_is_an_error_of_the_system(monkeypatch):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "500ms"}),
        pytest.raises(OSError, match="127.0.0.1:9"),
        open_executor("tcp://127.0.0.1:9"),
    ):
        pass
