"""The picture of predicted beside measured holds both, sorted, and says so in words."""

import numpy as np
import pytest

from coursekit.plots.fidelity import cdfs

LABELS = ("recorded (a device, 2031-02-03)", "simulated (a device)")


def metrics(factor=1.0):
    rng = np.random.default_rng(0)
    return {
        "ttft_s": factor * rng.uniform(2, 9, 40),
        "tpot_s": factor * np.append(rng.uniform(0.02, 0.04, 39), np.nan),
    }


def test_each_curve_is_its_values_sorted_from_the_first_to_the_last_request():
    figure = cdfs(metrics(), metrics(1.1), *LABELS)
    for ax, key, scale in zip(figure.axes, ("ttft_s", "tpot_s"), (1, 1e3), strict=True):
        for line, factor in zip(ax.get_lines(), (1.0, 1.1), strict=True):
            values = metrics(factor)[key]
            values = np.sort(values[~np.isnan(values)])
            assert line.get_xdata() == pytest.approx(scale * values)
            assert line.get_ydata()[-1] == 1 and line.get_ydata()[0] == 1 / len(values)


def test_measured_and_predicted_differ_by_more_than_colour():
    measured, predicted = cdfs(metrics(), metrics(), *LABELS).axes[0].get_lines()
    assert measured.get_linestyle() != predicted.get_linestyle()
    assert measured.get_linewidth() > predicted.get_linewidth()


def test_units_and_words_are_the_values():
    figure = cdfs(metrics(), metrics(1.1), *LABELS)
    assert [ax.get_xlabel() for ax in figure.axes] == ["seconds", "milliseconds"]
    middle = np.median(metrics()["ttft_s"])
    assert f"half have it by {middle:.2f} s measured" in figure.alt_text
    assert "of 39 requests" in figure.alt_text


def test_a_side_without_values_is_refused():
    for broken in ({}, {**metrics(), "tpot_s": np.array([np.nan])}):
        with pytest.raises(ValueError, match="needs t.*_s of at least 1 request"):
            cdfs(metrics(), broken, *LABELS)
