"""Alerts: raised after a while above the limit, cleared after a while under the lower one, and no flapping."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.metrics import Slo
from coursekit.monitor import AlertBoard, AlertRule, Estimate, Reading, Spread, default_rules
from coursekit.monitor.alerts import Alert

thorough = settings(max_examples=300, deadline=None, derandomize=True)
values = st.lists(st.floats(0, 2) | st.just(math.nan), min_size=1, max_size=80)


def rule(for_s: float = 3.0) -> AlertRule:
    return AlertRule("Test", lambda reading: reading.kv_usage, 1.0, 0.8, for_s, "warning", "turn it")


def events_of(alert: Alert, series: list[float], every_s: float = 1.0):
    found = [alert.update(value, every_s * number) for number, value in enumerate(series)]
    return [event for event in found if event is not None]


def held(series, event_at: int, for_s: int, wanted) -> bool:
    """Whether `wanted` was so at each of the looks of the `for_s` seconds up to the event."""
    return event_at >= for_s and all(wanted(value) for value in series[event_at - for_s : event_at + 1])


@thorough
@given(series=values, for_s=st.integers(0, 6))
def test_every_event_has_its_cause_and_they_alternate(series, for_s):
    events = events_of(Alert(rule(for_s)), series)
    for number, event in enumerate(events):
        assert event.is_raised == (number % 2 == 0)
        wanted = (lambda v: v > 1.0) if event.is_raised else (lambda v: v < 0.8)
        assert held(series, int(event.at_s), for_s, wanted)


@thorough
@given(series=values, for_s=st.integers(0, 6))
def test_nothing_is_missed(series, for_s):
    """Whoever stays over the limit for long enough is raised by then; likewise for clearing."""
    alert = Alert(rule(for_s))
    for number, value in enumerate(series):
        alert.update(value, float(number))
        if held(series, number, for_s, lambda v: v > 1.0):
            assert alert.is_raised
        if held(series, number, for_s, lambda v: v < 0.8):
            assert not alert.is_raised


@thorough
@given(series=st.lists(st.floats(0.8, 2), min_size=1, max_size=200), for_s=st.integers(0, 6))
def test_a_raised_alert_does_not_flap_however_the_value_trembles_above_the_lower_limit(series, for_s):
    assert len(events_of(Alert(rule(for_s)), series)) <= 1


@thorough
@given(series=st.lists(st.floats(0, 1.0), min_size=1, max_size=200))
def test_an_alert_that_is_not_raised_stays_so_under_the_upper_limit(series):
    assert not events_of(Alert(rule(0)), series)


@thorough
@given(series=values, for_s=st.integers(1, 6))
def test_changes_are_at_least_their_wait_apart(series, for_s):
    times = [event.at_s for event in events_of(Alert(rule(for_s)), series)]
    assert all(later - earlier >= for_s for earlier, later in zip(times, times[1:]))


def test_an_alert_without_hysteresis_would_flap():
    """The planted fault: one limit and no wait, on a value that trembles around it."""
    noise = random.Random(0)
    series = [1.0 + noise.uniform(-0.1, 0.1) for _ in range(100)]
    flapping = AlertRule("Flaps", lambda r: 0.0, 1.0, 1.0, 0.0, "warning", "")
    assert len(events_of(Alert(flapping), series)) > 20
    assert len(events_of(Alert(rule(0)), series)) == 1


def test_a_value_that_is_not_there_keeps_the_state_and_breaks_the_wait():
    alert = Alert(rule(2))
    assert not events_of(alert, [1.5, 1.5, math.nan, 1.5, 1.5])
    alert = Alert(rule(0))
    assert len(events_of(alert, [1.5, math.nan, math.nan])) == 1 and alert.is_raised


def test_time_does_not_go_back():
    alert = Alert(rule())
    alert.update(1.0, 5.0)
    with pytest.raises(ValueError, match="must not go back"):
        alert.update(1.0, 4.0)


def test_limits_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="clear_below"):
        AlertRule("Wrong", lambda r: 0.0, 1.0, 1.5, 0.0, "warning", "")
    with pytest.raises(ValueError, match="for_s"):
        AlertRule("Wrong", lambda r: 0.0, 1.0, 0.5, -1.0, "warning", "")


# --- The rules that ship ---


def seen(value: float) -> Spread:
    point = Estimate(value, value, value)
    return Spread(1000, value, point, point, point, point, "exact")


SICK = Reading(
    "test", 100.0, itl=seen(0.5), ttft=seen(9.0), queue=seen(5.0), kv_usage=0.99,
    num_preemptions=50, is_up=False,
)  # fmt: skip
WELL = Reading(
    "test", 100.0, itl=seen(0.05), ttft=seen(0.5), queue=seen(0.1), kv_usage=0.3, num_preemptions=0,
)  # fmt: skip


def test_a_sick_server_raises_every_rule_and_a_well_one_clears_them():
    board = AlertBoard(default_rules())
    assert not board.update(SICK, 0.0)
    assert {event.rule.name for event in board.update(SICK, 120.0)} == {a.rule.name for a in board.alerts}
    assert len(board.raised) == 6
    board.update(WELL, 130.0)
    board.update(WELL, 250.0)
    assert not board.raised


def test_a_reading_of_nothing_raises_nothing():
    board = AlertBoard(default_rules())
    board.update(Reading("test", 0.0), 0.0)
    assert not board.update(Reading("test", 0.0), 1000.0)


def test_only_what_the_slo_names_is_watched():
    names = {rule.name for rule in default_rules(Slo(itl_s=0.1))}
    assert "ItlP99High" in names and "TtftP99High" not in names


def test_an_event_says_what_to_turn():
    board = AlertBoard(default_rules())
    board.update(SICK, 0.0)
    texts = [str(event) for event in board.update(SICK, 200.0)]
    assert any("lower max_num_batched_tokens" in text for text in texts)
