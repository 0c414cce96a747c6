"""The front against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.optimizers.pareto import pareto_front

points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


@given(rows=points, maximize=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_point_is_on_the_front_if_no_other_beats_it(rows, maximize):
    signs = [1 if more else -1 for more in maximize]

    def beats(a, b):
        gains = [s * (x - y) for s, x, y in zip(signs, a, b)]
        return min(gains) >= 0 and max(gains) > 0

    expected = [not any(beats(other, row) for other in rows) for row in rows]
    assert pareto_front(np.array(rows), maximize).tolist() == expected


def test_unknown_points_are_not_on_it_and_beat_nobody():
    values = np.array([[1.0, np.nan], [1.0, 2.0], [0.0, 5.0]])
    assert pareto_front(values, (True, False)).tolist() == [False, True, False]


def test_an_aim_a_column_is_needed():
    with pytest.raises(ValueError, match=r"a column for each of 2 aims, got shape \(3, 1\): pass"):
        pareto_front(np.zeros((3, 1)), (True, False))
