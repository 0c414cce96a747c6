"""An engine in a process of its own: it obeys, reports, and never outlives its owner."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from coursekit.live.session import LiveSession

LIMITS = {"max_token_budget": 64, "max_num_seqs": 8, "max_model_len": 400, "token_budget": 32}


@pytest.fixture(scope="module")
def session(tiny_folder):
    session = LiveSession("torch", model=tiny_folder, **LIMITS)
    yield session
    session.close()


def steps_of(session, after=0):
    return [event for event in session.events[after:] if event["event"] == "step"]


def wait_for_decodes(session, count, after):
    while not any(step["decode"] == count for step in steps_of(session, after)):
        session.wait_for("step", 30, len(session.events))


def is_gone(pid: int, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_it_says_where_it_runs_how_fast_and_how_evenly(session):
    assert session.label.startswith("live (") and session.max_token_budget == 64
    assert session.decode_step_s > 0 and session.contention >= 1
    assert session.cost.iteration_s(4, 400, ()) > 0
    assert session.pid != os.getpid() and session.is_alive


def test_a_budget_turned_while_it_runs_counts_from_the_next_iterations(session):
    place = len(session.events)
    session.send("streams", value=2)
    session.send("go")
    wait_for_decodes(session, 2, place)
    session.send("budget", value=10)
    turned = session.events.index(session.wait_for("budget", 30, place))
    session.send("inject", prompt_length=200)
    request = session.wait_for("injected", 30, place)["request"]
    while not any(request in step["finished"] for step in steps_of(session, place)):
        session.wait_for("step", 30, len(session.events))
    session.send("pause")
    session.wait_for("stopped", 30, place)
    late = steps_of(session, turned)
    assert all(step["prefill"] + step["decode"] <= 10 for step in late)
    chunks = [step["prefill"] for step in late if step["prefill"]]
    assert sum(chunks) == 200 and set(chunks[:-1]) == {8}
    assert all(late[i]["start_s"] >= late[i - 1]["end_s"] for i in range(1, len(late)))


def test_stop_ends_the_run_within_one_iteration_and_drops_the_requests(session):
    place = len(session.events)
    session.send("streams", value=3)
    session.send("go")
    session.wait_for("step", 30, place)
    session.send("pause")
    stopped = session.events.index(session.wait_for("stopped", 30, place))
    time.sleep(0.3)
    assert not steps_of(session, stopped)


def test_streams_come_and_go_and_those_that_end_are_followed_by_new_ones(session):
    place = len(session.events)
    session.send("streams", value=4)
    session.send("go")
    while not any(step["finished"] for step in steps_of(session, place)):
        session.wait_for("step", 30, len(session.events))
    ended = len(session.events)
    wait_for_decodes(session, 4, ended)
    session.send("streams", value=1)
    wait_for_decodes(session, 1, len(session.events))
    session.send("pause")
    session.wait_for("stopped", 30, ended)


def test_an_interrupt_of_the_notebook_does_not_reach_it(session):
    assert os.getpgid(session.pid) != os.getpgid(0)


def test_what_it_can_not_do_is_refused_and_it_runs_on(tiny_folder):
    session = LiveSession("torch", model=tiny_folder, **LIMITS)
    try:
        session.send("budget", value=1000)
        with pytest.raises(ValueError, match="must be in 1..64.*got 1000"):
            session.wait_for("budget", 30)
        session.send("inject", prompt_length=20)
        session.send("go")
        assert session.wait_for("step", 30, 2)["prefill"] == 20
    finally:
        session.close()
    assert is_gone(session.pid) and not session.is_alive
    session.close()
    with pytest.raises(RuntimeError, match="process is gone"):
        session.send("go")


def test_an_engine_that_fails_is_reported(tiny_folder):
    session = LiveSession("torch", model=tiny_folder, **LIMITS)
    try:
        session.send("dance")
        with pytest.raises(RuntimeError, match="AttributeError.*dance"):
            session.wait_for("step", 30)
    finally:
        session.close()


def test_an_engine_that_does_not_start_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="ModelUnavailable|no config.json|FileNotFound"):
        LiveSession("torch", model=str(tmp_path / "nothing"), **LIMITS)
    with pytest.raises(RuntimeError, match="'torch' or 'vllm', got 'other'"):
        LiveSession("other")


def test_a_child_that_dies_is_noticed(tiny_folder):
    session = LiveSession("torch", model=tiny_folder, **LIMITS)
    os.kill(session.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="process ended"):
        session.wait_for("step", 30)
    session.close()


OWNER = """
import sys, time
from coursekit.live.session import LiveSession
session = LiveSession("torch", model=sys.argv[1], max_token_budget=64, max_model_len=400,
                      token_budget=32)
session.send("streams", value=2)
session.send("go")
session.wait_for("step", 60)
print(session.pid, flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["time.sleep(600)", "sys.exit()", "1 / 0", "del session"])
def test_it_ends_with_its_owner_however_that_ends(tiny_folder, end):
    """A kernel that is restarted is killed without a word; others end in their own ways."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(end=end), tiny_folder],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    pid = int(owner.stdout.readline())
    if "sleep" in end:
        owner.kill()
    owner.wait(60)
    assert is_gone(pid)
