"""Capacities as bars: each rate is drawn, and the stated gain stands beside ours."""

import pytest

from coursekit.plots.capacity import capacity_bars

PANELS = {
    "yi-34b": {"strict": [0.3, 0.34, 1.27], "relaxed": [0.6, 0.9, 1.3]},
    "mistral-7b": {"strict": [0.8, 0.84, 2.66]},
}
NAMES = ("Orca", "vLLM", "Sarathi")


@pytest.fixture
def figure():
    return capacity_bars(PANELS, NAMES, {("yi-34b", "strict"): 3.7}, "simulated (A100)")


def test_every_capacity_is_a_bar_of_its_height(figure):
    heights = [
        round(bar.get_height(), 6) for ax in figure.axes for bars in ax.containers for bar in bars
    ]
    wanted = [rate for groups in PANELS.values() for rates in groups.values() for rate in rates]
    assert sorted(heights) == sorted(wanted)


def test_the_gain_and_the_stated_one_stand_over_the_last_bar(figure):
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert texts == ["×3.74\npaper ×3.7", "×1.44", "×3.17"]


def test_hatches_tell_the_schedulers_apart_without_colour(figure):
    hatches = [bars[0].get_hatch() for bars in figure.axes[0].containers]
    assert len(set(hatches)) == 3


def test_it_is_described_and_its_source_is_named(figure):
    assert "yi-34b, strict: Orca 0.3, vLLM 0.34, Sarathi 1.27" in figure.alt_text
    assert "the paper states 3.7" in figure.alt_text
    assert any(text.get_text() == "simulated (A100)" for text in figure.texts)


def test_a_scheduler_without_capacity_is_no_division_by_zero():
    figure = capacity_bars({"m": {"g": [0.0, 0.0, 1.0]}}, NAMES, {}, "simulated (A100)")
    assert figure.axes[0].texts[0].get_text() == ""


@pytest.mark.parametrize(
    "panels, names, message",
    [
        ({}, NAMES, "at least 1 group"),
        ({"m": {}}, NAMES, "at least 1 group"),
        ({"m": {"g": [1.0, 2.0]}}, NAMES, "m, g: one capacity per scheduler .*got 2 for 3"),
        ({"m": {"g": [1.0]}}, ("one",), "schedulers must be 2 or 3 names, got 1"),
    ],
)
def test_what_can_t_be_drawn_is_refused(panels, names, message):
    with pytest.raises(ValueError, match=message):
        capacity_bars(panels, names, {}, "simulated (A100)")
