"""What the sweeps of these tests run: importable by name, as workers in other processes need it."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from coursekit.metrics import totals
from coursekit.simulate import simulate
from coursekit.workload import Workload


def throughput(token_budget: int) -> float:
    """Tokens per second of eight requests, simulated."""
    trace = simulate(Workload([0.1 * k for k in range(8)], [700] * 8, [20] * 8),
                     token_budget=token_budget)  # fmt: skip
    return totals(trace)["tokens_per_s"]


def die(token_budget: int) -> float:
    """Kills the process it runs in at a budget of 13."""
    if token_budget == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    return throughput(token_budget)


def unpicklable(token_budget: int):
    return lambda: token_budget


class Slow(NamedTuple):
    """A point that leaves a file in `folder`, one line per attempt: the process that ran it."""

    folder: str
    token_budget: int


def slow_throughput(point: Slow) -> float:
    with open(Path(point.folder) / str(point.token_budget), "a") as attempts:
        attempts.write(f"{os.getpid()}\n")
    time.sleep(0.25)
    return die(point.token_budget)
