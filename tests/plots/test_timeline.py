"""A schedule as a table: the cells are what the scheduler decided, the bars their sums."""

import pytest

from coursekit.plots import style
from coursekit.plots.timeline import Cell, follow_schedule, schedule_timeline
from coursekit.request import Request
from coursekit.schedulers import OrcaMixed, PrefillFirst, StallFree, TokenBudget


def workload() -> list[Request]:
    return [Request(0, 0.0, 4, 6), Request(1, 1.0, 20, 2), Request(2, 1.0, 3, 2)]


@pytest.fixture
def schedule():
    return follow_schedule(StallFree(11), workload(), num_iterations=6)


def test_cells_say_what_each_request_gets(schedule):
    decode, waits = Cell("decode", 1), Cell("waits")
    assert schedule.rows == [
        [Cell("prefill", 4), decode, decode, decode, decode, decode],
        [None, Cell("prefill", 10), Cell("prefill", 10), decode, None, None],
        [None, waits, waits, Cell("prefill", 3), decode, None],
    ]
    assert schedule.num_tokens(1, "prefill") == 10 and schedule.num_tokens(3, "decode") == 2


def test_who_has_started_and_gets_nothing_stands_still():
    schedule = follow_schedule(PrefillFirst(30), workload(), num_iterations=3)
    assert [cell.kind for cell in schedule.rows[0]] == ["prefill", "stands still", "decode"]


def test_a_prompt_of_one_token_is_prefill():
    schedule = follow_schedule(TokenBudget(8), [Request(0, 0.0, 1, 2)], num_iterations=2)
    assert schedule.rows == [[Cell("prefill", 1), Cell("decode", 1)]]


def test_numbers_in_the_table_and_over_the_bars(schedule):
    table, bars = schedule_timeline(schedule).axes
    numbers = [text.get_text() for text in table.texts]
    assert numbers == ["4", "1", "1", "1", "1", "1", "10", "10", "1", "3", "1"]
    assert [text.get_text() for text in bars.texts] == ["4", "11", "11", "5", "2", "1", "budget 11"]
    decode, prefill = bars.containers
    for low, high, total in zip(decode, prefill, (4, 11, 11, 5, 2, 1)):
        assert low.get_height() + high.get_height() == total
        assert high.get_hatch() == style.PREFILL_HATCH and not low.get_hatch()


def test_without_a_budget_no_line_is_drawn():
    figure = schedule_timeline(follow_schedule(OrcaMixed(), workload()))
    assert not figure.axes[1].lines
    assert all("budget" not in text.get_text() for text in figure.axes[1].texts)


def test_the_figure_says_where_it_is_from_and_describes_itself(schedule):
    figure = schedule_timeline(schedule)
    assert [text.get_text() for text in figure.texts] == ["simulated (decisions only, no clock)"]
    assert "Schedule of StallFree" in figure.alt_text
    assert "request 1 (20 + 2): 1 to 2: 10 prefill, 3: 1 decode." in figure.alt_text


def test_nothing_to_follow_is_refused():
    with pytest.raises(ValueError, match="num_iterations must be >= 1, got 0"):
        follow_schedule(StallFree(11), workload(), num_iterations=0)
    with pytest.raises(ValueError, match="at least 1 request"):
        follow_schedule(StallFree(11), [])
