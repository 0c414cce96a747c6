"""Comparing predicted with measured: errors are what was planted, and of the right things."""

import numpy as np
import pytest

from coursekit.analyzers.fidelity import (
    compare, iteration_errors, predicted_metrics, request_errors,
)  # fmt: skip
from coursekit.cost import RooflineCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.schedulers import TokenBudget
from coursekit.workload import Workload

METRICS = {key: np.linspace(1, 2, 50) for key in ("ttft_s", "tpot_s", "e2e_s")}
COST = RooflineCost("a100", "llama-2-7b")


class Dearer(RooflineCost):
    """A tenth above."""

    def iteration_s(self, *batch):
        return 1.1 * super().iteration_s(*batch)


def run(cost, count=20):
    workload = Workload(np.zeros(count), np.full(count, 100), np.full(count, 12))
    engine = Engine(TokenBudget(256, 8), SimulatedExecutor(cost), jump=False)
    return engine.run(workload.source())


def test_fifteen_rows_and_each_has_its_own_error():
    tail = METRICS["tpot_s"].copy()
    tail[-1] *= 1.5
    rows = compare({**METRICS, "tpot_s": tail}, METRICS)
    assert len(rows) == 15 and {row.num_requests for row in rows} == {50}
    off = {(row.metric, row.statistic) for row in rows if abs(row.error) > 1e-9}
    assert off == {("TPOT", "mean"), ("TPOT", "P99")}


def test_an_error_is_relative_and_positive_for_too_much():
    rows = compare({key: 1.02 * values for key, values in METRICS.items()}, METRICS)
    assert [row.error for row in rows] == pytest.approx([0.02] * 15)


def test_nan_does_not_count():
    holed = {key: np.append(values, np.nan) for key, values in METRICS.items()}
    assert all(row.error == 0 and row.num_requests == 50 for row in compare(METRICS, holed))


@pytest.mark.parametrize("bad", [{}, {**METRICS, "tpot_s": np.array([np.nan])}])
def test_a_metric_without_requests_is_refused(bad):
    with pytest.raises(ValueError, match="a comparison needs|no request has a tpot_s"):
        compare(bad, METRICS)


def test_a_cost_that_is_a_tenth_too_dear_is_so_on_every_iteration():
    assert iteration_errors(Dearer("a100", "llama-2-7b"), run(COST)) == pytest.approx(0.1)
    assert iteration_errors(COST, run(COST)) == pytest.approx(0, abs=1e-9)


def test_and_on_every_request():
    found = request_errors(run(Dearer("a100", "llama-2-7b")), run(COST))
    for key in METRICS:
        assert found[key] == pytest.approx(0.1)


def test_records_of_different_requests_are_refused():
    with pytest.raises(ValueError, match="same requests, got 20 and 19"):
        request_errors(run(COST), run(COST, 19))


def test_metrics_of_a_record_can_be_compared():
    assert compare(predicted_metrics(run(COST)), predicted_metrics(run(COST)))[0].error == 0
