"""Pictures of controllers and of priority classes: what is drawn is what was measured."""

import numpy as np
import pytest

from coursekit.analyzers.adaptive import A100_TRAFFIC, play, scenarios
from coursekit.analyzers.priority import class_rows, compare_policies, mixed_workload
from coursekit.chunking.adaptive import CostInverse, FixedBudget
from coursekit.cost import RooflineCost
from coursekit.plots import adaptive, priority

COST = RooflineCost("a100", "llama-2-7b")


@pytest.fixture(scope="module")
def runs():
    scenario = scenarios(A100_TRAFFIC, phase_s=5.0)[1]
    controllers = {"fixed 2048": FixedBudget(2048), "cost-inverse": CostInverse(COST, 0.045)}
    return [play(scenario, COST, each, name) for name, each in controllers.items()]


def test_budgets_and_steps_are_those_of_the_runs(runs):
    figure = adaptive.control(runs, 0.05)
    above, below = figure.axes[: len(runs)], figure.axes[len(runs) :]
    for run, budgets, steps in zip(runs, above, below, strict=True):
        filling = run.trace.iterations["num_prefill_tokens"] > 0
        assert np.array_equal(budgets.lines[0].get_ydata(), run.budgets[filling])
        drawn = sum(len(line.get_ydata()) for line in steps.lines[:2])
        assert drawn == run.trace.num_iterations
        assert (steps.lines[1].get_ydata() > 0.05).all()
    assert "cost-inverse" in figure.alt_text and "0 of" in figure.alt_text
    assert len(figure.png()) > 10_000


def test_a_window_shows_only_what_starts_in_it(runs):
    figure = adaptive.control(runs[:1], 0.05, 2.0, 4.0)
    at_s = np.concatenate([line.get_xdata() for line in figure.axes[1].lines[:2]])
    assert at_s.min() >= 2.0 and at_s.max() < 4.0


def test_what_can_not_be_drawn_is_refused(runs):
    with pytest.raises(ValueError, match=r"1\.\.5 runs, got 0"):
        adaptive.control([], 0.05)
    with pytest.raises(ValueError, match="no iteration of fixed 2048 starts in 1000000"):
        adaptive.control(runs, 0.05, 1e6)
    with pytest.raises(ValueError, match="at least 1 run, got 0"):
        priority.classes([])


def test_bars_are_the_classes_percentiles():
    runs = compare_policies(mixed_workload(n=200), COST)
    figure = priority.classes(runs)
    rows = class_rows(runs)
    for ax, (column, scale, *_) in zip(figure.axes, priority.PANELS, strict=True):
        heights = [bar.get_height() for container in ax.containers for bar in container]
        assert heights == pytest.approx([scale * getattr(row, column) for row in rows])
    assert "high class" in figure.alt_text
