"""The knee's picture: times, fit, and the marks that there are."""

import numpy as np
import pytest

from coursekit.analyzers import find_knee
from coursekit.analyzers.findings import describe_knee
from coursekit.plots.knee import against_tokens, knee_caption

SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]


def knee(seconds, ridge=np.nan):
    return find_knee(SIZES, seconds, label="simulated (test)", ridge_tokens=ridge)


N = np.array(SIZES, float)
IN_RANGE, FREE = np.maximum(0.01, 1e-4 * N), 0.01 + 1e-7 * N**2
FLAT, DEAR = 0.01 + 1e-6 * N, 0.01 + 1e-4 * N


def marks(figure) -> dict[str, float]:
    return {
        line.get_gid(): line.get_xdata()[0] for line in figure.axes[0].lines
        if line.get_gid() in ("knee", "as long as the floor", "ridge of the roofline")
    }  # fmt: skip


def test_times_and_fit_are_drawn_on_log_axes():
    found = knee(IN_RANGE)
    ax = against_tokens(found).axes[0]
    times = next(line for line in ax.lines if line.get_gid() == "times")
    assert list(times.get_xdata()) == SIZES and list(times.get_ydata()) == list(IN_RANGE)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


@pytest.mark.parametrize(
    "seconds, drawn, said",
    [
        (IN_RANGE, {"knee": 100}, "Tokens are nearly free up to 100"),
        (FREE, {}, "No knee: tokens cost nothing but their attention"),
        (FLAT, {}, "No knee up to 1,024 tokens: the floor covers them"),
        (DEAR, {"as long as the floor": 100}, "No knee: every token costs from the first one on"),
    ],
)
def test_what_there_is_is_marked_and_the_caption_says_it(seconds, drawn, said):
    found = knee(seconds)
    figure = against_tokens(found)
    assert marks(figure) == pytest.approx(drawn, rel=0.02)
    assert figure.axes[0].get_title(loc="left") == knee_caption(found) == said
    assert describe_knee(found) in figure.alt_text
    assert figure.texts[-1].get_text() == "simulated (test)"


def test_the_ridge_stands_beside_it_where_it_is_known():
    assert marks(against_tokens(knee(IN_RANGE, 153)))["ridge of the roofline"] == 153
    assert "ridge of the roofline" not in marks(against_tokens(knee(IN_RANGE)))
