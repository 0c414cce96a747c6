"""A closed loop: nobody asks again before the answer to the last question."""

import math

import pytest

from coursekit.workload import ClosedLoop


def test_all_users_start_at_zero_and_wait():
    loop = ClosedLoop([1, 2, 3], [4, 5, 6], num_users=2)
    assert loop.next_arrival_s == 0.0
    first, second = loop.take(0.0)
    assert (first.index, first.num_prompt_tokens, first.max_tokens) == (0, 1, 4)
    assert (second.index, second.num_prompt_tokens, second.max_tokens) == (1, 2, 5)
    assert loop.next_arrival_s == math.inf and loop.take(1e9) == []


def test_the_next_request_comes_after_the_answer_and_a_pause():
    loop = ClosedLoop([1, 2, 3], [4, 5, 6], num_users=1, think_s=2.0)
    (request,) = loop.take(0.0)
    loop.finished(request, 10.0)
    assert loop.next_arrival_s == 12.0 and loop.take(11.9) == []
    (request,) = loop.take(13.0)
    assert (request.index, request.arrival_s) == (1, 12.0)


def test_it_ends_when_no_request_is_left():
    loop = ClosedLoop([1], [1], num_users=3)
    (request,) = loop.take(0.0)
    loop.finished(request, 1.0)
    assert loop.next_arrival_s == math.inf and loop.take(math.inf) == []


def test_no_more_in_flight_than_users_and_the_same_run_each_time():
    def run():
        loop = ClosedLoop(range(1, 21), [1] * 20, num_users=3, think_s=0.5)
        flying, seen, now = [], [], 0.0
        while flying or loop.next_arrival_s < math.inf:
            new = loop.take(now)
            flying += new
            seen += [(request.index, request.arrival_s) for request in new]
            assert len(flying) <= 3
            if flying:
                loop.finished(flying.pop(), now + 1)
            now += 1
        return seen

    first = run()
    assert [index for index, _ in first] == list(range(20))
    assert [time for _, time in first] == sorted(time for _, time in first)
    assert first == run()


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (([1, 2], [1], 1), "equally long, got num_prompt_tokens 2, num_output_tokens 1"),
        (([1, 0], [1, 1], 1), "num_prompt_tokens must be >= 1, got 0 in row 1"),
        (([1], [1], 0), "num_users must be >= 1, got 0"),
        (([1], [1], 1.5), "num_users must be an integer, got 1.5"),
        (([1], [1], 1, -0.1), "think_s must be finite and >= 0 seconds, got -0.1"),
        (([1], [1], 1, math.nan), "think_s must be .* got nan"),
    ],
)
def test_bad_arguments(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        ClosedLoop(*arguments)
