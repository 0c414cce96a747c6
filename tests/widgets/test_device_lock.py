"""One holder at a time, a name for those who wait, and a way out of waiting."""

import threading

import pytest

from coursekit.widgets.device_lock import hold_device


def test_it_is_held_and_given_back():
    for _ in range(2):
        with hold_device("first") as held:
            assert held


def test_a_failure_gives_it_back():
    with pytest.raises(RuntimeError), hold_device("first"):
        raise RuntimeError
    with hold_device("second") as held:
        assert held


def test_who_waits_learns_the_holders_name_and_may_give_up():
    told, asked = [], []

    def give_up() -> bool:
        asked.append(True)
        return len(asked) > 2

    with hold_device("first"), hold_device("second", told.append, give_up) as held:
        assert not held
    assert told == ["first"]
    with hold_device("third") as held:
        assert held


def test_who_waits_is_next():
    order = []
    waiting = threading.Event()

    def second():
        with hold_device("second", lambda _: waiting.set()):
            order.append("second")

    with hold_device("first"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
