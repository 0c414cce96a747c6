"""Who blocked whom: the cells hold the table's seconds, whatever is left out is in "others"."""

import numpy as np
import pytest

from coursekit.analyzers import BlockingAnalysis
from coursekit.plots import blocking_time
from coursekit.plots.blocking_time import headline, who_blocked_whom
from coursekit.schedulers import PrefillFirst, TokenBudget
from tests.test_engine import PlainCost, run

ROWS = [(0.0, 10, 40), (0.0, 20, 30), (5.0, 3000, 4), (30.0, 2000, 4)]


def analysis(rows=ROWS, scheduler=None):
    return BlockingAnalysis.of(run(rows, scheduler or PrefillFirst(4096, 16)), PlainCost())


def crowd(policy=PrefillFirst):
    rows = [(float(k), 10 + k, 30 - k) for k in range(9)] + [(10.0 + k, 300, 3) for k in range(9)]
    return analysis(rows, policy(256, 32))


def cells(ax) -> list[list[str]]:
    """Texts of the cells by row."""
    texts = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
    rows, columns = (max(place[axis] for place in texts) + 1 for axis in (0, 1))
    return [[texts[row, column] for column in range(columns)] for row in range(rows)]


def test_each_cell_is_the_pairs_seconds():
    found = analysis()
    ax = who_blocked_whom(found).axes[0]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    assert rows == ["2 (3,000)", "3 (2,000)", "others"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "1", "2", "others"]
    (image,) = ax.get_images()
    pairs = found.who_blocked_whom.set_index(["blocker", "blocked"]).seconds
    assert image.get_array()[0, 0] == pytest.approx(pairs[2, 0])
    assert image.get_array()[1, 2] == pytest.approx(pairs[3, 2])
    assert cells(ax)[0] == ["31 s", "31 s", "·", "·"] and cells(ax)[2] == ["·"] * 4


def test_what_has_no_cell_of_its_own_is_among_the_others():
    found = crowd()
    blocked = blocking_time._most([found], "blocked")
    blockers = blocking_time._most([found], "blocker", blocked)
    grid = blocking_time._grid(found, blockers, blocked)
    assert len(blocked) == len(blockers) == blocking_time.MOST and grid[-1, -1] > 0
    assert grid.sum() == pytest.approx(found.blocked_s)
    rows = found.by_request.set_index("request")
    np.testing.assert_allclose(grid.sum(axis=0)[:-1], rows.blocked_s[blocked])
    np.testing.assert_allclose(grid.sum(axis=1)[:-1], rows.caused_s[blockers])
    most_blocked = rows.blocked_s.nlargest(blocking_time.MOST).index
    assert sorted(most_blocked) == blocked


def test_before_and_after_share_rows_columns_and_colours():
    before, after = crowd(), crowd(TokenBudget)
    figure = who_blocked_whom(before, after)
    left, right = figure.axes
    assert left.get_images()[0].get_clim() == right.get_images()[0].get_clim()
    ticks = [[label.get_text() for label in ax.get_xticklabels()] for ax in (left, right)]
    assert ticks[0] == ticks[1]
    assert left.get_title(loc="left").startswith("before: ")
    assert "in all" in right.get_title(loc="left")
    assert figure.texts[-1].get_text() == "simulated (plain)"
    assert before.findings() in figure.alt_text and after.findings() in figure.alt_text
    assert headline(before, after) in figure.alt_text


def test_the_headline_follows_the_change():
    before, after = crowd(), crowd(TokenBudget)
    assert "times smaller" in headline(before, after)
    assert "times larger" in headline(after, before)
    assert headline(before, before).endswith(": the same")
    assert "→" not in headline(before)
    assert headline(analysis([(0.0, 5, 1)])) == "No request got a second token"


def test_a_run_without_blocking_is_drawn_too():
    figure = who_blocked_whom(analysis([(0.0, 5, 3)]))
    assert cells(figure.axes[0]) == [["·"]] and "blocking time is 0" in figure.alt_text


def test_wrong_numbers_of_runs_or_names_are_refused():
    one = analysis()
    for runs, names in (((), ("a",)), ((one,) * 3, ("a", "b", "c")), ((one, one), ("a",))):
        with pytest.raises(ValueError, match=f"1 or 2 analyses.*got {len(runs)} and"):
            who_blocked_whom(*runs, names=names)
