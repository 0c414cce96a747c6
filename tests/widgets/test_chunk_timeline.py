"""The chunk-size widget: what it measures, what it shows, and what it does when pushed."""

import asyncio
import logging
import re
import threading
import time

import pytest

from coursekit.analyzers import measure_blocking
from coursekit.plots import style
from coursekit.widgets import ChunkTimeline
from coursekit.widgets.chunk_timeline import chunk_timeline
from coursekit.widgets.device_lock import hold_device

SIZES = (16, 64, 256)
PATIENCE_S = 20.0


@pytest.fixture
def widget(tiny_model):
    """A widget on the tiny model; its middle value, 64, is measured on construction."""
    made = ChunkTimeline(tiny_model, prompt_length=200, chunk_sizes=SIZES)
    yield made
    made.close()


class Stage:
    """Stands in for `measure_blocking`: measures the tiny model once the test lets it."""

    def __init__(self, model):
        self.model, self.asked, self.stopped, self.threads = model, [], [], []
        self.started, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    def __call__(self, model, *, chunk_size, should_stop, **rest):
        self.asked.append(chunk_size)
        self.threads.append(threading.get_ident())
        self.started.set()
        while not self.may_go_on.wait(0.01):
            if should_stop():
                self.stopped.append(chunk_size)
                break
        return measure_blocking(self.model, chunk_size=chunk_size, should_stop=should_stop, **rest)

    def hold(self):
        self.started.clear()
        self.may_go_on.clear()


@pytest.fixture
def stage(tiny_model):
    return Stage(tiny_model)


@pytest.fixture
def staged(stage):
    """A widget whose measurements the test can hold."""
    made = ChunkTimeline(prompt_length=200, chunk_sizes=SIZES, measure=stage)
    yield made
    stage.may_go_on.set()
    made.close()


def numbers(widget) -> list[str]:
    return re.findall(r"<strong[^>]*>(.*?)</strong>", widget.readout.value)


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


# Shown on construction and after each move


def test_the_first_measurement_is_there_on_construction(widget):
    assert [run.chunk_size for run in widget.runs] == [64]
    assert "measured 64 tokens" in widget.status.value
    assert widget.wait(0) is widget.runs[0]


@pytest.mark.parametrize("size, chunks", [(16, "13 chunks"), (64, "4 chunks"), (256, "1 chunk")])
def test_at_minimum_default_and_maximum_numbers_and_picture_are_those_of_the_run(
    widget, size, chunks
):
    widget.slider.value = 256 if size == 16 else 16
    widget.slider.value = size
    run = widget.wait(PATIENCE_S)
    assert run.chunk_size == size
    assert numbers(widget) == [
        style.format_seconds(run.worst_itl_s), style.format_seconds(run.baseline_itl_s),
        style.format_seconds(run.ttft_s), chunks,
    ]  # fmt: skip
    bars = widget.figure.axes[0].containers[0]
    assert len(bars) == len(run.iterations)
    widget.canvas.draw()  # what the browser asks for


def test_earlier_runs_stay_as_points(widget):
    for size in (16, 256, 16):
        widget.slider.value = size
        widget.wait(PATIENCE_S)
    gap_axes = widget.figure.axes[1]
    earlier, newest = (list(line.get_xdata()) for line in gap_axes.lines)
    assert (earlier, newest) == ([64, 16, 256], [16])
    assert gap_axes.lines[1].get_ydata()[0] == widget.runs[-1].worst_itl_s


def test_the_figure_keeps_one_provenance_label_and_describes_the_newest_run(widget):
    widget.slider.value = 16
    run = widget.wait(PATIENCE_S)
    assert [text.get_text() for text in widget.figure.texts] == [run.label]
    assert "13 chunks of 16" in widget.figure.alt_text
    assert "13 chunks of 16" in widget.picture_text.value


def test_the_slider_starts_in_the_middle_and_names_the_whole_prompt(widget):
    assert widget.slider.value == 64
    assert dict(widget.slider.options) == {
        "16 tokens": 16, "64 tokens": 64, "256 tokens (whole prompt)": 256
    }  # fmt: skip


def test_the_menu_moves_the_slider(widget):
    widget.choice.value = 16
    assert widget.slider.value == 16
    assert widget.wait(PATIENCE_S).chunk_size == 16


def test_controls_can_be_used_without_eyes(widget):
    assert "Chunk size" in widget.choice.tooltip
    assert widget.slider.description == "Chunk size"
    assert not widget.slider.continuous_update
    assert 'aria-live="polite"' in widget.readout.value
    assert 'role="status"' in widget.status.value


# Moved while it measures


def test_the_latest_value_wins_and_what_lies_between_is_never_measured(staged, stage):
    stage.hold()
    staged.slider.value = 16
    assert stage.started.wait(PATIENCE_S)
    for size in (64, 16, 256):
        staged.slider.value = size
    until(lambda: stage.stopped)
    stage.may_go_on.set()
    assert staged.wait(PATIENCE_S).chunk_size == 256
    assert stage.stopped[0] == 16  # the outdated run was told to stop …
    assert stage.asked in ([64, 16, 256], [64, 16, 64, 256], [64, 16, 16, 256])
    assert [run.chunk_size for run in staged.runs] == [64, 256]  # … and not shown


def test_moving_the_slider_returns_at_once(staged, stage):
    stage.hold()
    began = time.monotonic()
    staged.slider.value = 16
    assert time.monotonic() - began < 1.0
    with pytest.raises(TimeoutError, match="still measuring after 0.05 s"):
        staged.wait(0.05)


def test_progress_is_shown_while_it_runs(tiny_model):
    seen = []

    def slow(model, *, on_iteration, **rest):
        def watch(iteration):
            time.sleep(0.02)
            on_iteration(iteration)

        return measure_blocking(tiny_model, on_iteration=watch, **rest)

    widget = ChunkTimeline(prompt_length=200, chunk_sizes=SIZES, measure=slow)
    widget.status.observe(lambda change: seen.append(change["new"]), names="value")
    widget.slider.value = 16
    widget.wait(PATIENCE_S)
    assert any(re.search(r"measuring 16 tokens … chunk \d+ of 13", text) for text in seen)
    widget.close()


def test_close_stops_the_measurement_and_is_harmless_twice(staged, stage):
    stage.hold()
    staged.slider.value = 16
    assert stage.started.wait(PATIENCE_S)
    staged.close()
    staged.close()
    staged.wait(PATIENCE_S)
    assert stage.stopped == [16]
    assert len(staged.runs) == 1
    until(lambda: staged.name not in [thread.name for thread in threading.enumerate()])


# In Jupyter: a loop runs the cells, messages arrive on another thread


def test_between_cells_it_measures_on_the_thread_that_runs_cells(stage):
    async def cells():
        widget = ChunkTimeline(prompt_length=200, chunk_sizes=SIZES, measure=stage)
        mover = threading.Thread(target=lambda: setattr(widget.slider, "value", 16))
        mover.start()
        mover.join()
        assert len(widget.runs) == 1  # this cell still runs
        while len(widget.runs) < 2:
            await asyncio.sleep(0.01)
        widget.close()

    asyncio.run(asyncio.wait_for(cells(), PATIENCE_S))
    assert stage.asked == [64, 16]
    assert set(stage.threads) == {threading.get_ident()}


def test_moves_that_queue_up_are_taken_together(stage):
    async def cells():
        widget = ChunkTimeline(prompt_length=200, chunk_sizes=SIZES, measure=stage)
        for size in (16, 256, 16, 64, 256):  # as messages, one after the other
            await asyncio.sleep(0)
            widget.slider.value = size
        while len(widget.runs) < 2:
            await asyncio.sleep(0.01)
        widget.close()

    asyncio.run(asyncio.wait_for(cells(), PATIENCE_S))
    assert stage.asked == [64, 256]


def test_wait_in_a_cell_does_not_wait_for_itself(stage):
    async def cell():
        widget = ChunkTimeline(prompt_length=200, chunk_sizes=SIZES, measure=stage)
        widget.slider.value = 16
        run = widget.wait(PATIENCE_S)
        await asyncio.sleep(0.2)  # the queued call comes, and finds nothing to do
        widget.close()
        return run

    assert asyncio.run(cell()).chunk_size == 16
    assert stage.asked == [64, 16]


# Failures


def failing_at(size, model):
    def measure(_, *, chunk_size, **rest):
        if chunk_size == size:
            raise RuntimeError("out of <memory>")
        return measure_blocking(model, chunk_size=chunk_size, **rest)

    return measure


def test_a_failure_is_shown_logged_and_raised_and_the_next_run_is_fine(tiny_model, caplog):
    widget = ChunkTimeline(prompt_length=200, chunk_sizes=SIZES, measure=failing_at(16, tiny_model))
    with caplog.at_level(logging.ERROR):
        widget.slider.value = 16
        with pytest.raises(RuntimeError, match="out of <memory>"):
            widget.wait(PATIENCE_S)
    assert 'role="alert"' in widget.status.value
    assert "RuntimeError: out of &lt;memory&gt; (still shown: 64 tokens)" in widget.status.value
    assert caplog.records[0].exc_info[0] is RuntimeError
    widget.slider.value = 256
    assert widget.wait(PATIENCE_S).chunk_size == 256
    assert "RuntimeError" not in widget.status.value
    widget.close()


def test_a_failure_on_construction_is_raised(tiny_model):
    with pytest.raises(RuntimeError, match="out of <memory>"):
        ChunkTimeline(chunk_sizes=SIZES, measure=failing_at(64, tiny_model))
    with hold_device("the next") as held:
        assert held


def test_a_prompt_past_the_models_context_is_refused_as_the_measurement_does(tiny_model):
    with pytest.raises(ValueError, match="context is 512"):
        ChunkTimeline(tiny_model, prompt_length=600)


@pytest.mark.parametrize(
    "sizes, problem",
    [
        ((), "0 sizes"), ((0, 16), "int >= 1, got 0"), ((16, 2.5), "got 2.5"),
        ((16, True), "got True"), ((64, 16), "must rise"), ((16, 16), "must rise"),
    ],
)  # fmt: skip
def test_unusable_chunk_sizes_are_refused(tiny_model, sizes, problem):
    with pytest.raises(ValueError, match=problem):
        ChunkTimeline(tiny_model, chunk_sizes=sizes)


# One device


def test_a_second_widget_says_who_holds_the_device_and_then_gets_it(staged, stage, widget):
    stage.hold()
    staged.slider.value = 16
    assert stage.started.wait(PATIENCE_S)
    widget.slider.value = 16
    until(lambda: f"waiting: {staged.name} is measuring" in widget.status.value)
    stage.may_go_on.set()
    assert widget.wait(PATIENCE_S).chunk_size == 16
    assert staged.wait(PATIENCE_S).chunk_size == 16


def test_a_widget_that_waits_for_the_device_can_be_closed(staged, stage, widget):
    stage.hold()
    staged.slider.value = 16
    assert stage.started.wait(PATIENCE_S)
    widget.slider.value = 16
    widget.close()
    assert widget.wait(PATIENCE_S).chunk_size == 64


# The plain function


@pytest.mark.parametrize("chunk_size, title", [(16, "in 13 chunks of 16"), (None, "in one piece")])
def test_the_same_picture_as_a_plain_function(tiny_model, chunk_size, title):
    figure = chunk_timeline(tiny_model, chunk_size, prompt_length=200)
    assert figure.axes[0].get_title(loc="left").endswith(title)
    assert figure.texts[-1].get_text().startswith("live (")
