"""The tuner's picture shows what its view holds, and changes with it."""

import numpy as np
import pytest

from coursekit.analyzers.scene import play_scene
from coursekit.analyzers.tuning import TunerView, view_of_scene
from coursekit.cost import RooflineCost
from coursekit.plots.tuner import MOST_BARS, TunerPicture, describe_view

COST = RooflineCost("a100", "llama-2-7b")


def view_at(budget, slo_s=0.02):
    return view_of_scene(play_scene(COST, "token-budget", budget, 4, 2000), slo_s, budget)


@pytest.fixture
def picture():
    return TunerPicture()


def heights(bars):
    return [path.get_extents().height for path in bars.get_paths()]


@pytest.mark.parametrize("budget", [16, 256, 2048])
def test_bars_and_points_are_the_iterations_and_gaps(picture, budget):
    view = view_at(budget)
    picture.update(view)
    assert heights(picture._decode) == view.num_decode
    assert heights(picture._prefill) == [n for n in view.num_prefill if n]
    shown = np.concatenate((picture._fine.get_ydata(), picture._over.get_ydata()))
    assert sorted(shown) == sorted(view.gaps_s)
    assert len(picture._over.get_ydata()) == view.num_over_slo
    assert picture._slo.get_ydata()[0] == view.slo_s
    assert [text.get_text() for text in picture.figure.texts] == [view.label]


def test_it_can_be_changed_again_and_again_without_growing(picture):
    picture.update(view_at(64))
    artists = len(picture.figure.findobj())
    for budget in (2048, 64, 16, 64):
        picture.update(view_at(budget))
    assert len(picture.figure.findobj()) == pytest.approx(artists, abs=30)  # ticks come and go


def test_a_window_leaves_out_what_was_before(picture):
    view = view_at(64)
    middle = view.ends_s[len(view.ends_s) // 2]
    picture.update(view, middle)
    assert len(heights(picture._decode)) == sum(end >= middle for end in view.ends_s)
    assert picture._gaps.get_xlim()[0] >= middle - 0.1


def test_a_long_run_is_drawn_from_its_end(picture):
    count = 3 * MOST_BARS
    times = [float(n) for n in range(count + 1)]
    view = TunerView("live (test)", 0.1, times[:-1], times[1:], [0] * count, [2] * count)
    picture.update(view)
    assert len(heights(picture._decode)) == MOST_BARS


def test_nothing_yet_is_a_picture_too(picture):
    picture.update(TunerView("live (test)", 0.1))
    picture.figure.savefig("/dev/null", format="png")
    assert picture.figure.alt_text == "No iteration has run yet."


def test_the_words_have_the_numbers():
    words = describe_view(view_at(2048))
    assert "2,000 tokens at a budget of 2048" in words and "4 of 56 gaps are over the SLO" in words
