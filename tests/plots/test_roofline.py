"""The roofline: roof and ridge in the right place, and labels that can be read."""

import itertools

import pytest

from coursekit.plots.roofline import format_rate, roofline

CROWD = [
    ("decode, 1 stream", 1.0, 1.7e10), ("decode, 4 streams", 4.0, 5.6e10),
    ("decode, 16 streams", 14.0, 1.1e11), ("prefill 64", 55.0, 1.5e11),
    ("prefill 1,024", 400.0, 1.9e11), ("prefill 2,048", 410.0, 1.85e11),
    ("prefill 4,096", 430.0, 1.8e11),
]  # fmt: skip
LONE = [("decode", 1.0, 3e12)]


def draw(points=CROWD, peak=2.1e11, bandwidth=1.9e10):
    return roofline(peak, bandwidth, points, "live (test device)")


def parts(figure, gid: str) -> list:
    ax = figure.axes[0]
    return [part for part in [*ax.lines, *ax.texts] if part.get_gid() == gid]


def test_the_roof_rises_with_the_bandwidth_to_the_ridge_and_is_flat_after_it():
    slope, flat = (line.get_xydata() for line in parts(draw(), "roof"))
    ridge = 2.1e11 / 1.9e10
    assert slope[1].tolist() == flat[0].tolist() == pytest.approx([ridge, 2.1e11])
    assert slope[0][1] / slope[0][0] == pytest.approx(1.9e10)
    assert flat[1][1] == 2.1e11


def test_every_point_is_where_it_was_measured():
    drawn = [(line.get_xdata()[0], line.get_ydata()[0]) for line in parts(draw(), "point")]
    assert drawn == [(intensity, achieved) for _, intensity, achieved in CROWD]


@pytest.mark.parametrize("points", [CROWD, LONE, CROWD[4:]])
def test_each_point_and_the_ridge_have_a_label_and_no_two_overlap(points):
    figure = draw(points)
    figure.draw_without_rendering()
    labels = parts(figure, "label")
    assert [label.get_text() for label in labels[1:]] == [name for name, _, _ in points]
    assert labels[0].get_text().startswith("ridge: 11.1 FLOPs per byte")
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1


def test_the_text_says_which_side_each_point_is_on():
    figure = draw()
    text = figure.alt_text
    assert "decode, 1 stream reaches 17 GFLOP/s at 1 FLOPs per byte (bandwidth-bound)" in text
    assert "prefill 64 reaches 150 GFLOP/s at 55 FLOPs per byte (compute-bound)" in text
    assert figure.texts[-1].get_text() == "live (test device)"


@pytest.mark.parametrize(
    "rate, text",
    [(3.0, "3 FLOP/s"), (2.1e11, "210 GFLOP/s"), (9.89e14, "989 TFLOP/s"), (2e15, "2 PFLOP/s")],
)
def test_rates_have_a_fitting_prefix(rate, text):
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    "peak, bandwidth, points, problem",
    [
        (0, 1e9, LONE, "peak_flops must be > 0, got 0"),
        (1e9, -1, LONE, "bandwidth must be > 0, got -1"),
        (1e9, 1e9, [], "points holds 0 points"),
        (1e9, 1e9, [("decode", 0, 1.0)], "FLOPs per byte of decode must be > 0"),
        (1e9, 1e9, [("decode", 1.0, float("nan"))], "FLOP/s of decode must be > 0, got nan"),
    ],
)
def test_numbers_that_have_no_place_on_it_are_refused(peak, bandwidth, points, problem):
    with pytest.raises(ValueError, match=problem):
        roofline(peak, bandwidth, points, "live (test device)")
