"""A grid gives back what was measured, and straight lines between; whatever its points are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.cost.grid import Grid


def full(axes, function) -> Grid:
    points = np.stack([each.ravel() for each in np.meshgrid(*axes, indexing="ij")], axis=1)
    return Grid(points, np.array([function(*point) for point in points]))


def multilinear(a, b, c):
    return 5 + 2 * a + 3 * b * c + 0.5 * a * b + 0.01 * a * b * c


@given(st.floats(1, 200), st.floats(2, 70), st.floats(0, 900))
def test_what_is_linear_in_each_number_has_no_error_inside_or_past_the_last_point(a, b, c):
    grid = full([[1, 4, 64], [2, 3, 10, 50], [0, 16, 512]], multilinear)
    assert grid(a, b, c) == pytest.approx(multilinear(a, b, c), rel=1e-9)


def test_before_the_first_point_the_first_value_stays():
    grid = full([[4, 8], [16, 32]], lambda a, b: a * b)
    assert grid(1, 2) == grid(4, 16) == 64 and grid(1, 24) == 96


def test_points_behind_one_value_need_not_be_those_behind_another():
    points = [(1, 0), (1, 10), (2, 0), (2, 4), (2, 8), (3, 5), (3, 20)]
    grid = Grid(np.array(points), np.array([7 + a * b for a, b in points], float))
    for a in (1, 1.5, 2, 2.25):
        for b in (5, 6.5, 8, 30):
            assert grid(a, b) == pytest.approx(7 + a * b)


def test_a_point_measured_twice_counts_with_its_mean():
    assert Grid(np.array([[1], [1], [2]]), np.array([4.0, 6.0, 9.0]))(1) == 5.0


@given(st.floats(0, 100), st.lists(st.floats(0, 2000), min_size=1, max_size=20))
def test_a_line_is_the_grid_along_its_last_axis_and_an_array_is_its_values(a, numbers):
    points = [(1, 16), (1, 100), (8, 16), (8, 30), (8, 900), (64, 16), (64, 700)]
    grid = Grid(np.array(points), np.array([1 + (a * b) ** 0.5 for a, b in points]))
    line = grid.line(a)
    assert line.of(np.array(numbers)).tolist() == [line(each) for each in numbers]
    for each in numbers:
        assert line(each) == pytest.approx(grid(a, each))


@pytest.mark.parametrize(
    "points, values", [(np.zeros((0, 2)), []), ([[1], [2]], [1.0]), ([1], [1])]
)
def test_other_shapes_are_refused(points, values):
    with pytest.raises(ValueError, match="points must be"):
        Grid(np.array(points), np.array(values))
