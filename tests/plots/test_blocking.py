"""The timelines: a bar per iteration, the events, the worst gap, and the factor between two."""

import dataclasses

import pytest

from coursekit.plots import style
from coursekit.plots.blocking import compare, timeline


def texts_of(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def bars_of(ax) -> dict[str, list]:
    return {group.get_label().split(",")[0]: list(group) for group in ax.containers}


@pytest.mark.parametrize("chunk_size, chunks", [(None, 1), (256, 4), (1000, 1), (16, 63)])
def test_each_iteration_is_a_bar_from_its_start_to_its_end(make_run, chunk_size, chunks):
    run = make_run(chunk_size)
    bars = bars_of(timeline(run).axes[0])
    assert len(bars["decode"]) == len(bars["prefill"]) == len(run.iterations) == chunks + 5
    for bar, iteration in zip(bars["decode"], run.iterations):
        assert bar.get_x() == pytest.approx(iteration.start_s - run.arrival_s)
        assert bar.get_width() == pytest.approx(iteration.duration_s)


def test_prefill_tokens_are_stacked_on_decode_tokens(make_run):
    run = make_run(256)
    bars = bars_of(timeline(run).axes[0])
    for decode, prefill, iteration in zip(bars["decode"], bars["prefill"], run.iterations):
        assert decode.get_height() == prefill.get_y() == 4
        assert prefill.get_height() == iteration.num_prefill_tokens
        assert prefill.get_hatch() == style.PREFILL_HATCH
        assert not decode.get_hatch()


@pytest.mark.parametrize("chunk_size", [None, 256, 16])
def test_the_events_and_the_worst_gap_are_named(make_run, chunk_size):
    run = make_run(chunk_size)
    notes = texts_of(timeline(run).axes[0])
    assert "prompt arrives" in notes
    assert f"first token: TTFT {style.format_seconds(run.ttft_s)}" in notes
    assert f"worst gap {style.format_seconds(run.worst_itl_s)}, usual 50.0 ms" in notes


def test_title_says_how_the_prompt_was_cut(make_run):
    title = lambda run: timeline(run).axes[0].get_title(loc="left")  # noqa: E731
    assert title(make_run(None)) == title(make_run(1000)) == "1,000-token prompt in one piece"
    assert title(make_run(256)) == "1,000-token prompt in 4 chunks of 256"


def test_a_complete_figure_says_where_its_numbers_are_from_and_describes_itself(make_run):
    figure = timeline(make_run(256))
    assert [text.get_text() for text in figure.texts] == ["live (test device)"]
    assert "4 chunks of 256" in figure.alt_text
    assert "Worst gap between two tokens of a stream 306 ms" in figure.alt_text


def test_on_given_axes_the_caller_labels_the_figure(make_run):
    figure = style.new_figure()
    assert timeline(make_run(256), figure.subplots()) is figure
    assert figure.texts == []


@pytest.mark.parametrize(
    "first, second, headline",
    [
        (None, 100, "Worst gap 1.05 s → 150 ms: 7.0 times smaller"),
        (100, None, "Worst gap 150 ms → 1.05 s: 7.0 times larger"),
    ],
)
def test_compare_states_the_factor(make_run, first, second, headline):
    figure = compare(make_run(first), make_run(second))
    assert figure.get_suptitle() == headline
    assert figure.alt_text.startswith(headline)


def test_compare_puts_both_on_one_scale_with_room_for_the_notes(make_run):
    upper, lower = compare(make_run(None), make_run(100)).axes
    assert upper.get_xlim() == lower.get_xlim()
    assert upper.get_ylim() == lower.get_ylim()
    assert upper.get_ylim()[1] > 2 * 1004
    assert list(upper.get_yticks()) == [1, 4, 16, 64, 256]
    assert len(bars_of(lower)["prefill"]) == 15


def test_compare_names_each_source_once(make_run):
    same = compare(make_run(None), make_run(100))
    mixed = compare(make_run(None), make_run(100, label="simulated (test)"))
    provenance = lambda figure: [t.get_text() for t in figure.texts if t.get_gid()]  # noqa: E731
    assert provenance(same) == ["live (test device)"]
    assert provenance(mixed) == ["live (test device) · simulated (test)"]


def test_no_note_leaves_the_figure(make_run):
    for chunk_size in (None, 256, 16):
        figure = timeline(make_run(chunk_size))
        figure.draw_without_rendering()
        for text in figure.axes[0].texts:
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1


def test_an_empty_run_is_refused(make_run):
    empty = dataclasses.replace(make_run(), iterations=())
    for draw in (timeline, lambda run: compare(run, make_run())):
        with pytest.raises(ValueError, match="holds 0 iterations"):
            draw(empty)
