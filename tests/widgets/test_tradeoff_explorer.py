"""The trade-off explorer: what each control changes, what is simulated, and what is only judged."""

import logging

import ipywidgets
import numpy as np
import pytest

from coursekit.analyzers import tradeoff as analyzer
from coursekit.analyzers.tradeoff import judge, sweep
from coursekit.plots.boxes import boxes_of
from coursekit.widgets import TradeoffExplorer

BUDGETS = (128, 512, 2048, 8192)


@pytest.fixture(scope="module")
def made():
    widget = TradeoffExplorer(token_budgets=BUDGETS)
    widget.canvas.syncing_data_url = False  # as in a browser
    yield widget, settings(widget)
    widget.close()


@pytest.fixture
def widget(made):
    """The widget as it starts."""
    widget, start = made
    for name, value in start.items():
        widget.controls[name].value = value
    return widget


@pytest.fixture
def simulated(monkeypatch):
    """The calls of the simulator that a test causes."""
    calls = []
    simulate = analyzer.simulate
    monkeypatch.setattr(analyzer, "simulate", lambda *a: calls.append(a[1:]) or simulate(*a))
    return calls


def pixels(widget) -> np.ndarray:
    return np.array(widget.canvas.get_renderer().buffer_rgba())


def settings(widget) -> dict:
    return {name: control.value for name, control in widget.controls.items()}


# Moves


@pytest.mark.parametrize("name", ["request_rate", "ttft_slo_s", "itl_slo_s", "token_budget"])
@pytest.mark.parametrize("place", [0, None, -1])
def test_at_minimum_default_and_maximum_the_picture_is_that_of_the_settings(widget, name, place):
    slider = widget.sliders[name]
    start = slider.value
    values = [value for _, value in slider.options]
    slider.value = values[1]
    slider.value = start if place is None else values[place]
    assert widget.error is None
    assert widget.controls[name].value == slider.value
    now = settings(widget)
    slo_s = now.pop("ttft_slo_s"), now.pop("itl_slo_s")
    chosen = now.pop("token_budget")
    expected = judge(sweep(**now, token_budgets=BUDGETS).points, *slo_s)
    assert widget.tradeoff.verdict == expected
    boxes = boxes_of(widget.tradeoff.itl.patches[0])
    shaded = [b for b in BUDGETS if any(left < b < right for left, right, _, _ in boxes)]
    assert shaded == list(expected.feasible)
    assert widget.tradeoff._marks[0].ring.get_xdata() == [chosen]


@pytest.mark.parametrize(
    "name, refused",
    [
        ("hardware", {"t4"}), ("scheduler", set()), ("workload", set()),
        ("model", {"llama-2-70b"}),
    ],
)  # fmt: skip
def test_every_choice_of_a_menu_is_shown_or_refused_in_words(name, refused):
    widget = TradeoffExplorer(token_budgets=(512,), request_rate=16)
    widget.canvas.syncing_data_url = False
    failed = set()
    for choice in widget.controls[name].options:
        widget.controls[name].value = choice
        if widget.error is not None:
            assert isinstance(widget.error, ValueError) and "alert" in widget.status.value
            failed.add(choice)
    assert failed == refused
    widget.close()


def test_menu_and_slider_move_each_other(widget):
    widget.controls["token_budget"].value = 8192
    assert widget.sliders["token_budget"].value == 8192
    widget.sliders["ttft_slo_s"].value = 5
    assert widget.controls["ttft_slo_s"].value == 5


def test_slo_and_budget_are_judged_without_simulating(widget, simulated):
    for name in ("ttft_slo_s", "itl_slo_s", "token_budget"):
        for _, value in widget.sliders[name].options[::3]:
            widget.sliders[name].value = value
    assert simulated == [] and widget.error is None


def test_a_load_is_simulated_once(widget, simulated):
    analyzer._sweep.cache_clear()
    for rate in (8, 12, 8, 12):
        widget.sliders["request_rate"].value = rate
    assert len(simulated) == 2 * len(BUDGETS)
    assert [call[3] for call in simulated[:4]] == list(BUDGETS)


def test_what_is_kept_and_drawn_over_is_the_whole_figure(widget):
    for name, value in (("itl_slo_s", 0.01), ("request_rate", 16), ("token_budget", 128)):
        widget.sliders[name].value = value
        drawn = pixels(widget)
        widget.canvas.draw()
        assert np.array_equal(drawn, pixels(widget))


# Words


def test_the_verdict_is_told_with_its_source(widget):
    assert "of 4 token budgets keep both limits" in widget.readout.value
    assert "Yours, 2,048 tokens, misses the SLO" in widget.readout.value
    assert 'aria-live="polite"' in widget.readout.value
    assert "simulated (NVIDIA A100 80GB SXM, llama-2-7b, roofline)" in widget.status.value
    assert widget.tradeoff.explain() in widget.figure.alt_text
    widget.sliders["itl_slo_s"].value = 0.01
    assert "No token budget keeps both limits. The nearest is 128" in widget.readout.value
    assert "No token budget keeps both limits. The nearest is 128" in widget.picture_text.value


def test_another_device_changes_the_label(widget):
    widget.controls["hardware"].value = "h100"
    assert "simulated (NVIDIA H100" in widget.status.value
    sources = [t.get_text() for t in widget.figure.texts if t.get_gid() == "provenance"]
    assert sources == ["simulated (NVIDIA H100 80GB SXM, llama-2-7b, roofline)"]


def test_controls_can_be_used_without_eyes(widget):
    for name, menu in widget.controls.items():
        assert menu.description or menu.tooltip, name
    assert widget.controls["ttft_slo_s"].tooltip == "TTFT P99 at most"
    assert widget.sliders["ttft_slo_s"].description == "TTFT P99 at most"
    assert ("100 ms", 0.1) in widget.controls["itl_slo_s"].options


def test_the_learners_own_settings_are_offered_too():
    widget = TradeoffExplorer(
        ttft_slo_s=0.77, itl_slo_s=0.055, request_rate=2.5, token_budgets=(96, 700), token_budget=96
    )
    assert settings(widget)["ttft_slo_s"] == 0.77
    assert 0.055 in dict(widget.sliders["itl_slo_s"].options).values()
    assert widget.tradeoff.sweep is sweep(request_rate=2.5, token_budgets=(96, 700))
    widget.close()


# Failures


def test_a_model_that_does_not_fit_is_refused_in_words_and_the_way_back_is_fine(widget, caplog):
    before = widget.readout.value
    with caplog.at_level(logging.ERROR):
        widget.controls["model"].value = "llama-2-70b"
    assert isinstance(widget.error, ValueError)
    assert 'role="alert"' in widget.status.value and "GiB" in widget.status.value
    assert caplog.records[0].exc_info[0] is ValueError
    assert widget.readout.value == before
    widget.controls["model"].value = "llama-2-7b"
    assert widget.error is None and 'role="status"' in widget.status.value


@pytest.mark.parametrize(
    "bad, problem",
    [
        ({"ttft_slo_s": 0}, "ttft_slo_s must be finite and > 0, got 0"),
        ({"itl_slo_s": -0.1}, "itl_slo_s must be finite and > 0, got -0.1"),
        ({"token_budget": 100}, "token_budget must be one of 128, .*, got 100"),
        ({"token_budgets": ()}, "token_budgets must be 1 or more"),
        ({"request_rate": 0}, "request_rate must be finite and > 0, got 0"),
        ({"scheduler": "lifo"}, "unknown scheduler 'lifo'"),
        ({"workload": "haiku"}, "unknown workload 'haiku'"),
        ({"hardware": "abacus"}, "abacus"),
    ],
)
def test_bad_settings_are_refused_and_leave_nothing(bad, problem):
    before = len(ipywidgets.widget._instances)
    with pytest.raises(ValueError, match=problem):
        TradeoffExplorer(**{"token_budgets": BUDGETS, **bad})
    assert len(ipywidgets.widget._instances) == before


def test_close_releases_everything_and_is_harmless_twice():
    before = len(ipywidgets.widget._instances)
    widget = TradeoffExplorer(token_budgets=BUDGETS)
    widget.close()
    widget.close()
    assert len(ipywidgets.widget._instances) == before
    assert widget.figure.axes == []
