"""The trade-off: the points of the sweep, the region that keeps the SLO, and words that say it."""

import itertools

import pytest

from coursekit.analyzers.tradeoff import Point, Sweep, sweep
from coursekit.plots import style
from coursekit.plots.boxes import boxes_of
from coursekit.plots.tradeoff import Tradeoff, tradeoff

# TTFT falls with the budget, ITL grows; in the middle both are low.
POINTS = tuple(
    Point(budget, 0.1, ttft, itl, 200.0 + budget)
    for budget, ttft, itl in (
        (64, 4.0, 0.01), (128, 0.9, 0.02), (256, 0.5, 0.04), (512, 0.4, 0.2), (1024, 0.35, 0.4)
    )
)  # fmt: skip
SWEEP = Sweep(POINTS, 100, 5000, "simulated (by hand)")


def parts(ax, gid) -> list:
    return [part for part in (*ax.lines, *ax.patches, *ax.texts) if part.get_gid() == gid]


def test_every_point_is_drawn_where_it_was_simulated():
    figure = tradeoff(SWEEP, 1.0, 0.1)
    ttft, itl, rate = figure.axes
    for ax, name in (
        (ttft, "ttft_p50_s"), (ttft, "ttft_p99_s"), (itl, "itl_p99_s"),
        (rate, "output_tokens_per_s"),
    ):  # fmt: skip
        (curve,) = parts(ax, name)
        assert list(curve.get_xdata()) == [p.token_budget for p in POINTS]
        assert list(curve.get_ydata()) == [getattr(p, name) for p in POINTS]


@pytest.mark.parametrize(
    "slo, stretches",
    [
        ((1.0, 0.1), [(128, 256)]), ((5.0, 0.1), [(64, 256)]), ((10.0, 1.0), [(64, 1024)]),
        ((0.45, 0.3), [(512, 512)]), ((0.1, 0.1), []),
    ],
)  # fmt: skip
def test_the_shaded_region_holds_the_feasible_budgets_and_no_other(slo, stretches):
    for ax in tradeoff(SWEEP, *slo).axes:
        (band,) = parts(ax, "feasible")[:1]
        boxes = boxes_of(band)
        inside = [
            p.token_budget
            for p in POINTS
            if any(left <= p.token_budget <= right for left, right, _, _ in boxes)
        ]
        expected = [
            p.token_budget
            for p in POINTS
            if any(first <= p.token_budget <= last for first, last in stretches)
        ]
        assert inside == expected and len(boxes) == len(stretches)
        assert band.get_hatch()  # not by colour alone


def test_a_region_with_a_hole_is_two_boxes():
    late = POINTS[1]._replace(ttft_p99_s=9.0)
    hole = SWEEP._replace(points=(POINTS[0], late, *POINTS[2:]))
    (band,) = parts(tradeoff(hole, 5.0, 0.1).axes[1], "feasible")
    first, second = boxes_of(band)
    assert first[0] < 64 < first[1] < 128 < second[0] < 256 < second[1] < 512


def test_points_that_miss_their_limit_are_hollow():
    ttft, itl, rate = tradeoff(SWEEP, 1.0, 0.1).axes
    for ax, missed in ((ttft, [64]), (itl, [512, 1024]), (rate, [64, 512, 1024])):
        (hollow,), (full,) = parts(ax, "missed"), parts(ax, "kept")
        assert hollow.get_xdata().tolist() == missed
        assert hollow.get_markerfacecolor() == style.PAPER != full.get_markerfacecolor()
        assert len(full.get_xdata()) + len(missed) == len(POINTS)


def test_the_learners_budget_is_marked_in_each_axes():
    figure = tradeoff(SWEEP, 1.0, 0.1, token_budget=256)
    for ax, value in zip(figure.axes, (0.5, 0.04, 456.0)):
        (line,), (ring,) = parts(ax, "chosen"), parts(ax, "ring")
        assert line.get_xdata() == [256, 256] and line.get_visible()
        assert (ring.get_xdata(), ring.get_ydata()) == ([256], [value])
    (note,) = parts(figure.axes[2], "yours")
    assert note.get_text() == "yours: 256"
    assert not parts(tradeoff(SWEEP, 1.0, 0.1).axes[0], "chosen")[0].get_visible()


@pytest.mark.parametrize(
    "limit_s, note, is_line",
    [
        (1.0, "SLO\n1.00 s", True), (100.0, "SLO ↑\n100 s", False),
        (1e-3, "SLO ↓\n1.00 ms", False),
    ],
)  # fmt: skip
def test_a_limit_beyond_the_axes_is_an_arrow(limit_s, note, is_line):
    ax = tradeoff(SWEEP, limit_s, 0.1).axes[0]
    (text,) = parts(ax, "limit")
    assert text.get_text() == note
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_visible() for line in dashed] == [is_line]


def test_it_says_which_sizes_are_feasible_and_what_rules_out_the_others():
    figure = tradeoff(SWEEP, 1.0, 0.1, 256)
    assert (
        "2 of 5 token budgets keep both limits: 128 and 256. TTFT P99 (at most 1.00 s) rules out "
        "64. ITL P99 (at most 100 ms) rules out 512 and 1,024. Yours, 256 tokens, keeps the SLO: "
        "TTFT P50 100 ms, P99 500 ms, ITL P99 40.0 ms, 456 output tokens per second. TTFT P99 is "
        "at 50% and ITL P99 is at 40% of its limit, so TTFT P99 binds." in figure.alt_text
    )
    assert "2 of 5 token budgets keep the SLO" in [text.get_text() for text in figure.texts]


def test_it_says_by_how_much_the_nearest_misses():
    figure = tradeoff(SWEEP, 0.4, 0.03, 1024)
    assert (
        "No token budget keeps both limits. The nearest is 256: its ITL P99 of 40.0 ms is over by "
        "10.0 ms, 1.33 times its limit. TTFT P99 (at most 400 ms) rules out 64 and 128. ITL P99 "
        "(at most 30.0 ms) rules out 512 and 1,024. 256 misses both." in figure.alt_text
    )
    assert "misses the SLO" in figure.alt_text and "so ITL P99 binds" in figure.alt_text
    texts = [text.get_text() for text in figure.texts]
    assert "No token budget keeps the SLO; nearest 256: ITL P99 1.33 times its limit" in texts
    assert not parts(figure.axes[0], "feasible")[-1].get_visible()


def test_a_scheduler_without_a_budget_speaks_of_chunks():
    figure = tradeoff(SWEEP._replace(chunked=True), 10.0, 1.0)
    assert "5 of 5 chunk sizes keep both limits" in figure.alt_text
    labels = [text.get_text() for text in figure.axes[2].texts]
    assert "chunk size (tokens of a prompt in one iteration)" in labels


def test_numbers_are_labelled_with_their_source_and_their_n():
    figure = tradeoff(SWEEP, 1.0, 0.1)
    assert figure.texts[-1].get_text() == "simulated (by hand)"
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles[:2] == ["TTFT of 100 requests", "ITL P99 of 5,000 gaps between tokens"]


def test_the_same_figure_takes_another_sweep_and_another_slo():
    picture = Tradeoff(SWEEP)
    picture.mark(1.0, 0.1, 64)
    faster = SWEEP._replace(
        points=tuple(p._replace(ttft_p99_s=0.3) for p in POINTS), label="simulated (another)"
    )
    picture.draw(faster)
    picture.mark(1.0, 0.1, None)
    assert picture.verdict.feasible == (64, 128, 256)
    assert parts(picture.ttft, "ttft_p99_s")[0].get_ydata().tolist() == [0.3] * 5
    assert [text.get_text() for text in picture.figure.texts][-1] == "simulated (another)"


@pytest.mark.parametrize(
    "settings",
    [
        ({}, 1.0, 0.1, 512), ({}, 0.001, 0.001, 8192), ({}, 80.0, 0.8, 64),
        ({"request_rate": 16, "scheduler": "decode-first"}, 0.1, 0.01, 64),
        ({"request_rate": 1, "scheduler": "prefill-first"}, 1.0, 0.01, 8192),
    ],
)  # fmt: skip
def test_no_text_overlaps_another_or_leaves_the_figure(settings):
    swept, *marked = settings
    figure = tradeoff(sweep(**swept), *marked)
    figure.draw_without_rendering()
    shown = [text for ax in figure.axes for text in (*ax.texts, *ax.get_yticklabels())]
    shown += [ax._left_title for ax in figure.axes] + figure.axes[-1].get_xticklabels()
    shown += [*figure.texts, *figure.axes[0].get_legend().texts]
    found = [(t, t.get_window_extent()) for t in shown if t.get_text().strip() and t.get_visible()]
    for text, box in found:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, a), (other, b) in itertools.combinations(found, 2):
        assert min(a.x1, b.x1) - max(a.x0, b.x0) < 1 or min(a.y1, b.y1) - max(a.y0, b.y0) < 4, (
            f"{one.get_text()!r} and {other.get_text()!r}"
        )


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"sweep": SWEEP._replace(points=())}, "at least 1 point, got 0: sweep"),
        ({"ttft_slo_s": 0}, "ttft_slo_s must be finite and > 0, got 0: pass seconds"),
        ({"itl_slo_s": -1}, "itl_slo_s must be finite and > 0, got -1: pass seconds"),
        ({"token_budget": 100}, "token_budget must be one of 64, 128, .* got 100: choose"),
        ({"sweep": SWEEP._replace(label="guessed")}, "simulated, recorded or live"),
    ],
)
def test_what_can_not_be_drawn_is_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        tradeoff(**{"sweep": SWEEP, "ttft_slo_s": 1.0, "itl_slo_s": 0.1, **change})


def test_a_sweep_of_other_budgets_needs_another_figure():
    with pytest.raises(ValueError, match="as in the first sweep, .*: make another figure"):
        Tradeoff(SWEEP).draw(SWEEP._replace(points=POINTS[1:]))
