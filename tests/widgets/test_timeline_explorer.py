"""The timeline explorer: what each move shows, how it is told, and that nothing is swallowed."""

import dataclasses
import logging
import subprocess
import sys

import ipywidgets
import numpy as np
import pytest

from coursekit.plots.boxes import boxes_of
from coursekit.plots.gantt import Gantt
from coursekit.schedulers import PrefillFirst, TokenBudget
from coursekit.simulate import simulate
from coursekit.widgets import TimelineExplorer
from coursekit.workload import Workload, constant, fixed
from tests.test_engine import run

ROWS = [(0.0, 300, 6), (0.5, 40, 9), (3.0, 900, 4), (4.0, 10, 1), (60.0, 50, 3)]


@pytest.fixture(scope="module")
def traces():
    return run(ROWS, PrefillFirst(512, 16)), run(ROWS, TokenBudget(64, 16))


@pytest.fixture(scope="module")
def of_two(traces):
    made = TimelineExplorer(traces)
    made.canvas.syncing_data_url = False  # as in a browser
    yield made
    made.close()


@pytest.fixture(scope="module")
def of_one(traces):
    made = TimelineExplorer(traces[1], window=20)
    made.canvas.syncing_data_url = False
    yield made
    made.close()


@pytest.fixture
def widget(of_two):
    """Two traces, at the start."""
    of_two.walked.value = of_two.slider.value = 0
    return of_two


@pytest.fixture
def alone(of_one):
    """One trace of many iterations, at the start, in a window of 20."""
    of_one.zoom.value, of_one.slider.value = 20, 0
    return of_one


def pixels(widget) -> np.ndarray:
    return np.array(widget.canvas.get_renderer().buffer_rgba())


# Moves


@pytest.mark.parametrize("where", ["minimum", "default", "maximum"])
def test_at_minimum_default_and_maximum_words_and_picture_are_those_of_the_iteration(
    widget, traces, where
):
    last = traces[0].num_iterations - 1
    iteration = {"minimum": 0, "default": widget.slider.value, "maximum": last}[where]
    widget.slider.value = 5
    widget.slider.value = iteration
    assert widget.error is None
    first, second = widget.gantt.marked
    assert first.iteration == iteration
    assert f"iteration {iteration} of 0 to {last}, at {first.start_s:.3f} s" in widget.readout.value
    frame = widget.gantt.panels[0].frames[0]
    assert (frame.get_x(), frame.get_width()) == (first.start_s, first.end_s - first.start_s)
    assert second is None or second.start_s <= first.start_s < second.end_s


def test_every_iteration_can_be_shown(widget, traces):
    for walked in (0, 1):
        widget.walked.value = walked
        for iteration in range(traces[walked].num_iterations):
            widget.slider.value = iteration
            assert widget.error is None
            assert widget.gantt.marked[walked].iteration == iteration


def test_slider_and_number_field_move_each_other(widget):
    widget.number.value = 7
    assert widget.slider.value == 7 and widget.gantt.marked[0].iteration == 7
    widget.slider.value = 3
    assert widget.number.value == 3


def test_a_move_is_answered_once(widget, monkeypatch):
    shown = []
    show = Gantt.show
    monkeypatch.setattr(Gantt, "show", lambda *args: shown.append(args[1:]) or show(*args))
    widget.number.value = 7
    widget.slider.value = 8
    widget.walked.value = 1
    assert [args[1] for args in shown] == [0, 0, 1]


def test_walking_through_the_other_trace_stays_at_the_moment(widget, traces):
    widget.slider.value = 6
    moment_s = widget.gantt.moment_s
    widget.walked.value = 1
    assert widget.slider.max == widget.number.max == traces[1].num_iterations - 1
    ran = widget.gantt.marked[1]
    assert ran.iteration == widget.slider.value == widget.number.value
    assert ran.start_s <= moment_s < ran.end_s
    widget.walked.value = 0
    assert widget.slider.max == traces[0].num_iterations - 1


def test_traces_of_equal_length_are_told_apart():
    early, late = run([(0.0, 40, 20)]), run([(5.0, 40, 20)])
    widget = TimelineExplorer([early, late])
    widget.slider.value = 10
    moment_s = widget.gantt.moment_s
    widget.walked.value = 1
    ran = widget.gantt.marked[1]
    assert ran.iteration == widget.slider.value < 10 and ran.start_s <= moment_s < ran.end_s
    widget.close()


def test_the_window_can_be_widened(alone, traces):
    tokens = alone.gantt.panels[0].bars["decode"]
    assert len(boxes_of(tokens)) == 20
    alone.zoom.value = 200
    assert len(boxes_of(tokens)) == traces[1].num_iterations < 200


@pytest.mark.parametrize("steps", [(1, 9, 0), (1, 9, 14), (14, 15), (20, 21, 1, 2)])
def test_what_is_kept_and_drawn_over_is_the_whole_figure(alone, steps):
    for step in steps:
        alone.slider.value = step
    drawn = pixels(alone)
    alone.canvas.draw()
    assert np.array_equal(drawn, pixels(alone))


def test_no_move_draws_the_whole_figure(alone, monkeypatch):
    whole = []
    monkeypatch.setattr(alone.canvas, "draw", lambda: whole.append(True))
    for iteration in (1, 14, 20, 21):
        alone.slider.value = iteration
    assert whole == [] and alone.error is None


def test_another_resolution_is_drawn_anew(alone):
    alone.slider.value = 3
    alone.canvas._handle_message(alone.canvas, {"type": "set_dpi_ratio", "dpi_ratio": 2}, [])
    alone.slider.value = 4
    assert alone.error is None and pixels(alone).shape[1] == 2000
    alone.canvas._handle_message(alone.canvas, {"type": "set_dpi_ratio", "dpi_ratio": 1}, [])


def test_a_long_record_is_walked_through_in_a_window():
    workload = Workload(constant(20.0, 1000), fixed(1000, 200), fixed(1000, 60))
    trace = simulate(workload, token_budget=256)
    assert trace.num_iterations > 3000
    widget = TimelineExplorer(trace)
    for iteration in (1000, trace.num_iterations - 1):
        widget.slider.value = iteration
        assert len(boxes_of(widget.gantt.panels[0].bars["decode"])) <= 61
        assert len(widget.gantt.panels[0].rows.get_yticks()) <= 20
        assert len(widget.figure.findobj()) < 1000  # artists, ticks and texts included
    widget.close()


# Words


def test_controls_can_be_used_without_eyes(widget, alone):
    assert widget.slider.description == "Iteration"
    assert widget.number.description == "Go to iteration"
    assert widget.walked.description == "Walk through"
    names = [name for name, _ in widget.walked.options]
    assert names == ["prefill-first, budget 512", "token-budget, budget 64"]
    assert 'aria-live="polite"' in widget.readout.value
    assert 'role="status"' in widget.status.value
    assert alone.walked.layout.display == "none"


def test_both_traces_are_told_and_named(widget):
    widget.slider.value = 1
    assert "<strong>prefill-first, budget 512</strong>" in widget.readout.value
    assert "<strong>token-budget, budget 64</strong>" in widget.readout.value
    assert widget.readout.value.count("Waiting: ") == 2


def test_the_source_and_the_picture_in_words_follow_every_move(widget, traces):
    widget.slider.value = 4
    assert "simulated (plain)" in widget.status.value
    assert "iteration 4 of 0" in widget.figure.alt_text
    assert "iteration 4 of 0" in widget.picture_text.value
    assert [text.get_text() for text in widget.figure.texts] == ["simulated (plain)"]
    live = dataclasses.replace(traces[1], label="live (<device>)")
    mixed = TimelineExplorer([traces[0], live])
    assert "simulated (plain) · live (&lt;device&gt;)" in mixed.status.value
    mixed.close()


def test_names_are_the_learners_own():
    trace = run(ROWS)
    widget = TimelineExplorer([trace, trace], names=["before <b>", "after"])
    assert "<strong>before &lt;b&gt;</strong>: iteration 0" in widget.readout.value
    widget.close()


# Failures


def test_a_failure_is_shown_logged_and_kept_and_the_next_move_is_fine(widget, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("out of <paper>")

    with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
        broken.setattr(Gantt, "sentences", fail)
        widget.slider.value = 5
    assert isinstance(widget.error, RuntimeError)
    assert 'role="alert"' in widget.status.value
    assert "RuntimeError: out of &lt;paper&gt;" in widget.status.value
    assert caplog.records[0].exc_info[0] is RuntimeError
    widget.slider.value = 6
    assert widget.error is None and "alert" not in widget.status.value
    drawn = pixels(widget)
    widget.canvas.draw()
    assert np.array_equal(drawn, pixels(widget))


def test_a_failure_on_construction_is_raised_and_leaves_nothing(traces, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of paper")

    monkeypatch.setattr(Gantt, "sentences", fail)
    before = len(ipywidgets.widget._instances)
    with pytest.raises(RuntimeError, match="out of paper"):
        TimelineExplorer(traces)
    assert len(ipywidgets.widget._instances) == before


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"traces": []}, "traces must be 1 or 2, got 0"),
        ({"traces": [run(ROWS)] * 3}, "traces must be 1 or 2, got 3"),
        ({"traces": run([])}, "at least 1 iteration to be shown, got 0"),
        ({"traces": run(ROWS), "names": []}, "names must be as many as traces, 1, got 0"),
        ({"traces": run(ROWS), "window": 0}, r"window must be in 1..1000 iterations, got 0"),
    ],
)
def test_what_can_not_be_shown_is_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        TimelineExplorer(**settings)


# The end


def test_close_releases_everything_and_is_harmless_twice(traces):
    before = len(ipywidgets.widget._instances)
    widget = TimelineExplorer(traces)
    widget.slider.value = 3
    widget.close()
    widget.close()
    assert len(ipywidgets.widget._instances) == before
    assert widget.figure.axes == []
    widget.slider.value = 4  # a message that was under way
    assert widget.error is None and widget.number.value == 3


def test_importing_the_packages_loads_neither_matplotlib_nor_ipywidgets():
    code = (
        "import sys, coursekit, coursekit.widgets as w; assert 'TimelineExplorer' in dir(w); "
        "assert 'TradeoffExplorer' in dir(coursekit); import coursekit.plots.gantt, "
        "coursekit.plots.tradeoff; print({'matplotlib', 'ipywidgets', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
