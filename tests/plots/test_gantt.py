"""The Gantt chart: its boxes are the record's, in one window, with words that say the same."""

import dataclasses
import itertools

import numpy as np
import pytest

from coursekit.plots import style
from coursekit.plots.boxes import boxes_of
from coursekit.plots.gantt import Gantt, compare_traces, gantt
from coursekit.schedulers import PrefillFirst, TokenBudget
from tests.analyzers.test_replay import in_chunks_only
from tests.test_engine import run

ROWS = [(0.0, 300, 6), (0.5, 40, 9), (3.0, 900, 4), (4.0, 10, 1), (60.0, 50, 3)]
MANY = [(0.7 * k, 30 + 37 * k % 400, 20 + k % 7) for k in range(120)]


@pytest.fixture(scope="module")
def small():
    """Two schedulers on the same five requests."""
    return run(ROWS, PrefillFirst(512, 16)), run(ROWS, TokenBudget(256, 16))


@pytest.fixture(scope="module")
def many():
    """Two schedulers on 120 requests, a hundred iterations and more."""
    return run(MANY, PrefillFirst(512, 64)), run(MANY, TokenBudget(64, 64))


def boxes(ax, kind):
    (patch,) = (patch for patch in ax.patches if patch.get_gid() == kind)
    return boxes_of(patch)


def texts(figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.texts if text.get_text()]


# What is drawn


def test_every_prefill_chunk_and_every_decoded_token_is_a_box(small):
    trace = small[1]
    rows, tokens = gantt(trace, window=1000).axes
    num_chunks = sum(iteration_prefills(trace))
    assert len(boxes(rows, "prefill")) == num_chunks > 5
    assert len(boxes(rows, "decode")) == trace.iterations["num_decode_tokens"].sum()
    assert len(boxes(tokens, "decode")) == trace.num_iterations


def iteration_prefills(trace) -> list[int]:
    """How many chunks of each iteration are prefill: all, as each decode here is of the group."""
    assert trace.iterations["num_preempted"].sum() == 0
    return np.bincount(trace.chunks["iteration"], minlength=trace.num_iterations).tolist()


def test_boxes_are_as_long_as_their_iterations_and_in_their_requests_row(small):
    trace = small[1]
    rows = gantt(trace, window=1000).axes[0]
    chunks, table = trace.chunks, trace.iterations
    expected = {
        (table["start_s"][k], table["end_s"][k], request)
        for k, request in zip(chunks["iteration"], chunks["request"])
    }
    drawn = {
        (left, right, round((bottom + top) / 2))
        for left, right, bottom, top in boxes(rows, "prefill")
    }
    assert drawn == expected


def test_who_waits_is_grey_from_arrival_to_the_first_iteration(small):
    trace = small[0]
    requests = trace.requests
    drawn = {box[:2] for box in boxes(gantt(trace, window=1000).axes[0], "waits")}
    late = requests["first_scheduled_s"] > requests["arrival_s"]
    assert drawn == set(zip(requests["arrival_s"][late], requests["first_scheduled_s"][late]))


def test_tokens_are_stacked_prefill_on_decode(small):
    trace = small[1]
    tokens = gantt(trace, window=1000).axes[1]
    table = trace.iterations
    tops = {left: top for left, _, _, top in boxes(tokens, "decode")}
    for k, start_s in enumerate(table["start_s"]):
        assert tops[start_s] == max(table["num_decode_tokens"][k], 0.5)
    for left, _, bottom, top in boxes(tokens, "prefill"):
        k = table["start_s"].tolist().index(left)
        total = table["num_decode_tokens"][k] + table["num_prefill_tokens"][k]
        assert (bottom, top) == (tops[left], total)
    assert len(boxes(tokens, "prefill")) == (table["num_prefill_tokens"] > 0).sum()


def test_phases_differ_by_more_than_colour(small):
    for ax in gantt(small[0]).axes:
        hatches = {patch.get_gid(): patch.get_hatch() for patch in ax.patches}
        assert hatches["prefill"] == style.PREFILL_HATCH and not hatches["decode"]


def test_a_live_record_of_chunks_alone_gives_the_same_picture(small):
    trace = small[1]
    live = in_chunks_only(trace)
    for kind in ("prefill", "decode", "waits"):
        engine, recorded = (
            sorted(boxes(gantt(each, window=1000).axes[0], kind)) for each in (trace, live)
        )
        assert engine == recorded
    assert [t.get_text() for t in gantt(live).texts] == ["live (test device)"]


# Window and mark


@pytest.mark.parametrize("iteration", [0, 7, 60, -1])
def test_the_marked_iteration_is_framed_in_both_traces_at_one_moment(many, iteration):
    iteration = iteration % many[0].num_iterations
    picture = Gantt(many)
    picture.show(iteration)
    moment_s = many[0].iterations["start_s"][iteration]
    for panel, trace, ran in zip(picture.panels, many, picture.marked):
        assert ran.start_s <= moment_s < ran.end_s
        assert ran.start_s in trace.iterations["start_s"]
        for frame in panel.frames:
            assert (frame.get_x(), frame.get_width()) == (ran.start_s, ran.end_s - ran.start_s)
        low, high = panel.rows.get_xlim()
        assert low <= ran.start_s and ran.end_s <= high
    assert picture.marked[0].iteration == iteration


def test_a_long_record_shows_a_window_and_few_rows(many):
    picture = Gantt(many, window=40)
    for iteration in range(0, many[0].num_iterations, 13):
        picture.show(iteration)
        for panel, trace in zip(picture.panels, many):
            low, high = panel.rows.get_xlim()
            table = trace.iterations
            inside = (table["end_s"] > low) & (table["start_s"] < high)
            assert len(boxes(panel.tokens, "decode")) == inside.sum()
            assert len(panel.rows.get_yticks()) == 8
        shown = [len(boxes(panel.tokens, "decode")) for panel in picture.panels]
        assert min(shown) <= 41


def test_both_traces_have_the_same_rows_and_the_marked_prefills_are_among_them(many):
    picture = Gantt(many)
    for iteration in range(0, many[0].num_iterations, 7):
        picture.show(iteration)
        first, second = (
            [label.get_text().split()[0] for label in panel.rows.get_yticklabels()]
            for panel in picture.panels
        )
        assert first == second
        prefilled = {str(r) for ran in picture.marked if ran for r, _, _ in ran.prefills}
        assert prefilled <= set(first) or len(prefilled) > 8


def test_the_window_stands_still_while_one_walks_through_it(many):
    picture = Gantt(many[1:])
    moved = [picture.show(iteration) for iteration in range(100, 160)]
    assert sum(moved[1:]) <= 8
    assert not picture.show(159)


def test_where_the_other_trace_runs_nothing_it_says_so(small):
    fast, slow = small[0], run([(100.0, 40, 3)])
    picture = Gantt([fast, slow], ["fast", "slow"])
    picture.show(0)
    assert picture.marked[1] is None
    assert picture.sentences()[1] == "nothing runs until 100.000 s."
    assert not picture.panels[1].frames[0].get_visible()
    picture.show(2, of=1)
    assert picture.marked[0] is None
    assert picture.sentences()[0] == f"done since {fast.iterations['end_s'][-1]:.3f} s."


def test_an_iteration_of_no_duration_can_be_marked(small):
    table = small[1].iterations
    ends_s = table["end_s"].copy()
    ends_s[5] = table["start_s"][5]
    picture = Gantt([dataclasses.replace(small[1], iterations=table | {"end_s": ends_s})])
    picture.show(5)
    assert picture.marked[0].iteration == 5 and "iteration 5 of" in picture.sentences()[0]


def test_a_record_of_one_iteration_can_be_shown():
    figure = gantt(run([(0.0, 5, 1)]), iteration=0)
    assert len(boxes(figure.axes[0], "prefill")) == 1


# Words


def test_the_sentence_says_who_got_what_and_who_did_not(small):
    picture = Gantt(small, ["A", "B"])
    picture.show(1)
    assert picture.sentences()[0] == (
        "iteration 1 of 0 to 14, at 4.000 s, took 1.40 s: prefill of 40 tokens for request 1 "
        "(40 tokens); no decode. Waiting: requests 2 and 3. Started, but got nothing: request 0. "
        "No gap between two tokens yet."
    )
    assert picture.describe().endswith(f"A: {picture.sentences()[0]} B: {picture.sentences()[1]}")
    picture.show(picture.replays[0].num_iterations - 1)
    assert "Worst gap so far" in picture.sentences()[0]


def test_long_lists_are_counted(many):
    picture = Gantt(many[1:])
    crowded = int(np.argmax(many[1].iterations["num_decode_tokens"]))
    picture.show(crowded)
    num_more = many[1].iterations["num_decode_tokens"][crowded] - 6
    assert f" and {num_more} more" in picture.sentences()[0]


def test_the_description_holds_what_the_picture_shows(small):
    figure = compare_traces(small, iteration=1)
    assert figure.alt_text.startswith(
        "Gantt chart of requests and iterations: prefill-first, budget 512, 15 iterations and 5 "
        "requests, simulated (plain); token-budget, budget 256, "
    )
    assert "It shows 5 of 5 requests from 0.000 to" in figure.alt_text
    assert "iteration 1 of 0 to 14" in figure.alt_text
    unmarked = gantt(small[0])
    assert "iteration 1" not in unmarked.alt_text
    frames = [p for ax in unmarked.axes for p in ax.patches if p.get_gid() == "frame"]
    assert len(frames) == 2 and not any(frame.get_visible() for frame in frames)


def test_titles_rows_and_sources_are_named(small, many):
    figure = compare_traces(small, iteration=1, names=["first", "second"])
    assert {"first", "second", "request\n(prompt + output)"} <= set(texts(figure))
    assert "iteration 1: 40 prefill, 1.40 s" in texts(figure)
    assert [text.get_text() for text in figure.texts] == ["simulated (plain)"]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["0 (300 + 6)", "1 (40 + 9)", "2 (900 + 4)"]
    assert any("8 of " in text for text in texts(compare_traces(many, 60)))


def test_a_scheduler_without_a_budget_has_no_budget_line():
    from coursekit.schedulers import InterleavedPrefillDecodeScheduler

    picture = Gantt([run(ROWS, InterleavedPrefillDecodeScheduler(64, 16)), run(ROWS)])
    picture.show(0)
    assert picture.names == ["interleaved, chunks of 64", "token-budget, budget 512"]
    without, with_budget = (panel.budget.get_ydata() for panel in picture.panels)
    assert len(without) == 0 and list(with_budget) == [512, 512]


@pytest.mark.parametrize("which, iteration", [("small", 3), ("many", 60), ("many", 0)])
def test_no_text_overlaps_another_or_leaves_the_figure(request, which, iteration):
    long = ["priority-token-budget, budget 2,048", "interleaved, chunks of 2,048"]
    figure = compare_traces(request.getfixturevalue(which), iteration, names=long)
    figure.draw_without_rendering()
    shown = [text for ax in figure.axes for text in (*ax.texts, *ax.get_yticklabels())]
    shown += [figure.axes[-1].xaxis.label, *figure.texts]
    axis = figure.axes[-1].xaxis
    low, high = axis.get_view_interval()  # ticks beyond its ends exist, and are not drawn
    shown += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    found = [(text, text.get_window_extent()) for text in shown if text.get_text().strip()]
    assert len(found) > 20
    for text, box in found:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in itertools.combinations(found, 2):
        assert min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 3, (
            f"{one.get_text()!r} and {other.get_text()!r}"
        )


# What can't be shown


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"traces": []}, "traces must be 1 or 2, got 0: choose"),
        ({"traces": 3}, "traces must be 1 or 2, got 3: choose"),
        ({"traces": "empty"}, "at least 1 iteration to be shown, got 0: run"),
        ({"names": ["one"]}, "names must be as many as traces, 2, got 1: give"),
        ({"window": 0}, r"window must be in 1..1000 iterations, got 0: choose"),
        ({"window": 1001}, r"window must be in 1..1000 iterations, got 1001: choose"),
        ({"iteration": 15}, r"iteration must be in 0..14, got 15: the record has 15"),
        ({"iteration": -1}, r"iteration must be in 0..14, got -1"),
    ],
)
def test_what_can_not_be_shown_is_refused(small, change, problem):
    named = {0: [], 3: [*small, small[0]], "empty": [small[0], run([])]}
    settings = {"traces": small, **change}
    if not isinstance(settings["traces"], tuple | list):
        settings["traces"] = named[settings["traces"]]
    with pytest.raises(ValueError, match=problem):
        compare_traces(**settings)


def test_a_trace_number_that_is_not_there_is_refused(small):
    with pytest.raises(ValueError, match=r"of must be in 0..1, got 2: count from 0"):
        Gantt(small).show(0, of=2)
