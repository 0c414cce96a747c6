"""A workload is sorted, checked columns; its source sends each request once, at its arrival."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.workload import OpenSource, Workload
from coursekit.workload.source import _BLOCK_ROWS


def taken(source):
    """Everything `source` sends, an arrival at a time."""
    requests = []
    while source.next_arrival_s < math.inf:
        requests += source.take(source.next_arrival_s)
    return requests


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, coursekit.workload.readers; from coursekit.workload import *;"
        "print([m for m in ('pandas', 'torch', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_defaults():
    workload = Workload([0.5], [7], [3])
    assert len(workload) == 1
    assert workload.priority.tolist() == [0]
    assert workload.priority_class.tolist() == ["medium"]
    assert workload.prompt_token_ids is None
    assert "1 requests" in repr(workload) and repr(Workload([], [], [])) == "Workload(0 requests)"


def test_every_column_is_sorted_by_arrival_and_ties_keep_their_order():
    workload = Workload(
        [2, 1, 1], [1, 2, 3], [4, 5, 6], [7, 8, 9], ["a", "b", "c"], [[0], [1, 1], [2, 2, 2]]
    )
    assert workload.arrival_s.tolist() == [1.0, 1.0, 2.0]
    assert workload.num_prompt_tokens.tolist() == [2, 3, 1]
    assert workload.num_output_tokens.tolist() == [5, 6, 4]
    assert workload.priority.tolist() == [8, 9, 7]
    assert workload.priority_class.tolist() == ["b", "c", "a"]
    assert workload.prompt_token_ids == [[1, 1], [2, 2, 2], [0]]


def test_columns_are_copies():
    arrivals = np.array([0.0, 1.0])
    workload = Workload(arrivals, [1, 1], [1, 1])
    arrivals[0] = 9
    assert workload.arrival_s.tolist() == [0.0, 1.0]


def test_whole_floats_are_integers():
    assert Workload([0], np.array([8.0]), [1]).num_prompt_tokens.dtype == np.int64


@pytest.mark.parametrize(
    "columns, reason",
    [
        (([0, 1], [1, 1], [1]), r"equally long, got arrival_s 2, .*num_output_tokens 1"),
        (([0, -1.5], [1, 1], [1, 1]), r"arrival_s must be .*>= 0, got -1.5 in row 1: "),
        (([math.nan, 0], [1, 1], [1, 1]), r"arrival_s .* got nan in row 0"),
        (([0, math.inf], [1, 1], [1, 1]), r"arrival_s .* got inf in row 1"),
        ((["x", "y"], [1, 1], [1, 1]), "arrival_s must hold seconds"),
        (([0, 1], [5, 0], [1, 1]), r"num_prompt_tokens must be >= 1, got 0 in row 1: "),
        (([0, 1], [1, 1], [1, 2.5]), r"num_output_tokens must be an integer, got 2.5 in row 1"),
        (([0, 1], [1, 1], [math.nan, 1]), r"num_output_tokens .* got nan in row 0"),
        (([0, 1], [True, True], [1, 1]), "num_prompt_tokens must hold integers"),
        (([0, 1], [[1], [1]], [1, 1]), r"one dimension, got shape \(2, 1\)"),
        (([0, 1], [1, 1], [1, 1], [0, 0.5]), "priority must be an integer, got 0.5 in row 1"),
        (([0, 1], [1, 1], [1, 1], None, ["a", 3]), "priority_class .* got 3 in row 1"),
        (([0, 1], [1, 2], [1, 1], None, None, [[1], [1]]), "1 ids for 2 tokens in row 1"),
    ],
)
def test_a_bad_value_is_named_with_its_row(columns, reason):
    with pytest.raises(ValueError, match=reason):
        Workload(*columns)


def test_the_row_is_the_one_given_not_the_one_sorted():
    with pytest.raises(ValueError, match="row 0"):
        Workload([9, 1], [0, 1], [1, 1])


def test_take_sends_what_has_arrived_and_says_what_comes_next():
    source = Workload([1, 2, 2, 5], [1, 2, 3, 4], [1] * 4).source()
    assert isinstance(source, OpenSource) and source.next_arrival_s == 1.0
    assert source.take(0.5) == []
    assert [request.index for request in source.take(2)] == [0, 1, 2]
    assert source.next_arrival_s == 5.0
    (last,) = source.take(math.inf)
    assert last.num_prompt_tokens == 4
    assert source.next_arrival_s == math.inf and source.take(math.inf) == []


def test_finishing_changes_nothing():
    source = Workload([1, 2], [1, 1], [1, 1]).source()
    (request,) = source.take(1)
    source.finished(request, 7.0)
    assert source.next_arrival_s == 2.0


def test_an_empty_workload_sends_nothing():
    source = Workload([], [], []).source()
    assert source.next_arrival_s == math.inf and source.take(1e9) == []


def test_requests_carry_every_column_as_python_values():
    workload = Workload([0.5], [2], [3], [4], ["high"], [[8, 9]])
    (request,) = workload.source().take(1)
    values = (request.index, request.arrival_s, request.num_prompt_tokens, request.max_tokens)
    assert values == (0, 0.5, 2, 3)
    assert [type(value) for value in values] == [int, float, int, int]
    assert (request.priority, request.priority_class) == (4, "high")
    assert type(request.priority) is int and type(request.priority_class) is str
    assert request.token_ids == [8, 9] and request.token_ids is not workload.prompt_token_ids[0]


@pytest.mark.parametrize("num_requests", [_BLOCK_ROWS - 1, _BLOCK_ROWS, 2 * _BLOCK_ROWS + 1])
def test_nothing_is_lost_between_blocks(num_requests):
    rows = np.arange(num_requests)
    requests = taken(Workload(rows / 4, rows + 1, rows + 2).source())
    assert [request.index for request in requests] == rows.tolist()
    assert [request.arrival_s for request in requests] == (rows / 4).tolist()
    assert [request.num_prompt_tokens for request in requests] == (rows + 1).tolist()
    assert [request.max_tokens for request in requests] == (rows + 2).tolist()


def test_two_sources_of_one_workload_are_independent():
    workload = Workload([1, 2], [1, 1], [1, 1])
    first, second = workload.source(), workload.source()
    first.take(2)
    assert len(second.take(2)) == 2


@given(st.lists(st.integers(0, 20), max_size=30), st.lists(st.integers(0, 20), max_size=10))
def test_each_request_is_taken_once_and_never_early_or_late(arrivals, times):
    ones = [1] * len(arrivals)
    source, last, requests = Workload(arrivals, ones, ones).source(), -1, []
    for now in sorted(times) + [20]:
        new = source.take(now)
        assert all(last < request.arrival_s <= now for request in new)
        assert source.next_arrival_s > now
        requests, last = requests + new, now
    assert [request.arrival_s for request in requests] == sorted(arrivals)
    assert [request.index for request in requests] == list(range(len(arrivals)))
