"""Open and closed loop, deadlines, stopping: who sends when, and that it ends."""

import asyncio
import math
import threading
import time

import numpy as np
import pytest

from coursekit.loadtest import load_test, mixed_lengths
from coursekit.workload import Workload
from tests.loadtest.scripted_server import serving


@pytest.fixture(scope="module")
def server():
    with serving({99: "silent"}) as running:
        yield running


def test_an_open_loop_sends_on_schedule_whatever_the_server_does(server):
    workload = Workload(np.arange(12) * 0.02, [99] * 12, [4] * 12)  # it never answers
    result = load_test(server.url, workload, timeout_s=0.5)
    late = [o.sent_s - o.scheduled_s for o in result.outcomes]
    assert [o.scheduled_s for o in result.outcomes] == workload.arrival_s.tolist()
    assert 0 <= min(late) and np.median(late) < 0.02  # seen: under a millisecond
    assert result.kinds == {"timed out": 12}


def test_a_closed_loop_has_no_more_in_flight_than_users():
    with serving() as server:
        result = load_test(server.url, mixed_lengths(20, [(8, 4)]), num_users=3)
    assert server.most_open == 3 and result.kinds == {"finished": 20}
    sent_s = np.sort([o.sent_s for o in result.outcomes])
    ended_s = np.sort([o.ended_s for o in result.outcomes])
    assert (sent_s[3:] >= ended_s[:-3]).all()


def test_users_think_before_they_ask_again(server):
    result = load_test(server.url, mixed_lengths(4, [(8, 2)]), num_users=1, think_s=0.05)
    ended, sent = [o.ended_s for o in result.outcomes], [o.sent_s for o in result.outcomes]
    assert all(after - before >= 0.05 for before, after in zip(ended, sent[1:]))


def test_a_deadline_ends_the_run_and_accounts_for_every_request(server):
    workload = Workload([0.0, 0.0, 30.0], [8, 99, 8], [4, 4, 4])
    began = time.monotonic()
    result = load_test(server.url, workload, deadline_s=0.4)
    assert [o.kind for o in result.outcomes] == ["finished", "stopped", "not sent"]
    assert time.monotonic() - began < 10
    assert result.trace.requests["request"].tolist() == [0, 1]  # what was not sent has no row
    assert result.summary()["requests"]["workload"] == 3


def test_a_run_that_is_stopped_keeps_what_it_has(server):
    stop = threading.Event()
    workload = Workload([0.0, 0.0, 30.0], [8, 99, 8], [4, 4, 4])
    result = load_test(server.url, workload, stop=stop, on_outcome=lambda outcome: stop.set())
    assert [o.kind for o in result.outcomes] == ["finished", "stopped", "not sent"]


def test_a_fault_of_the_caller_is_raised_and_not_counted(server):
    with pytest.raises(ZeroDivisionError):
        load_test(server.url, mixed_lengths(3, [(8, 2)]), on_outcome=lambda outcome: 1 / 0)


def test_it_runs_where_an_event_loop_runs_already(server):
    async def cell():
        return load_test(server.url, mixed_lengths(2, [(8, 2)]))

    assert asyncio.run(cell()).kinds == {"finished": 2}


def test_prompts_differ_between_runs_unless_a_seed_says_otherwise():
    with serving() as server:
        for seed in (None, None, 3, 3):
            load_test(server.url, mixed_lengths(1, [(50, 1)]), seed=seed)
    prompts = [tuple(body["prompt"]) for body in server.bodies]
    assert prompts[2] == prompts[3] and len(set(prompts)) == 3


def test_a_workload_with_token_ids_and_priorities_is_sent_as_it_is():
    with serving() as server:
        workload = Workload([0.0], [3], [1], priority=[-2], prompt_token_ids=[[5, 6, 7]])
        load_test(server.url, workload, send_priority=True)
    assert server.bodies[0]["prompt"] == [5, 6, 7] and server.bodies[0]["priority"] == -2


def test_a_workload_by_kind_has_equal_parts_and_says_which():
    workload = mixed_lengths(6, [(100, 4), (7, 9)], rate_per_s=2.0, seed=1)
    assert sorted(workload.num_prompt_tokens.tolist()) == [7] * 3 + [100] * 3
    names = dict(zip(workload.num_prompt_tokens.tolist(), workload.priority_class))
    assert names == {100: "100:4", 7: "7:9"} and (np.diff(workload.arrival_s) > 0).all()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"url": "localhost:8000"}, "url must start with http"),
        ({"timeout_s": 0}, "timeout_s must be finite and > 0 s, got 0"),
        ({"deadline_s": math.inf}, "deadline_s must be finite and > 0 s, got inf"),
        ({"num_users": 0}, "num_users must be >= 1, got 0"),
        ({"think_s": -1, "num_users": 1}, "think_s must be finite and >= 0 seconds, got -1"),
        ({"workload": Workload([], [], [])}, "at least 1 request, got 0"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    given = {"url": "http://127.0.0.1:1", "workload": mixed_lengths(1, [(8, 2)]), **options}
    with pytest.raises(ValueError, match=message):
        load_test(**given)


@pytest.mark.parametrize("number, kinds, rate", [(0, [(8, 2)], 1), (2, [], 1), (2, [(8, 2)], 0)])
def test_a_mix_out_of_range_is_refused(number, kinds, rate):
    with pytest.raises(ValueError, match="must"):
        mixed_lengths(number, kinds, rate)
