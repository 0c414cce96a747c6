"""The shared look: legible colours, units, provenance, and a text for each picture."""

import subprocess
import sys

import pytest

from coursekit.plots import style

TEXT_COLORS = ("TEXT", "MUTED")
MARK_COLORS = ("PREFILL", "DECODE", "ACCENT")


def linear_rgb(color: str) -> list[float]:
    """Linear red, green and blue in 0..1 of "#rrggbb" (IEC 61966-2-1)."""
    values = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]


def luminance(rgb: list[float]) -> float:
    return 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2]


def contrast(a: str, b: str) -> float:
    """The contrast ratio of WCAG 2, 1 to 21."""
    dark, light = sorted(luminance(linear_rgb(color)) for color in (a, b))
    return (light + 0.05) / (dark + 0.05)


# Severe colour blindness on linear RGB: Machado, Oliveira and Fernandes (2009), table 1.
DEFICIENCIES = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def seen(color: str, deficiency: str) -> list[float]:
    rgb = linear_rgb(color)
    rows = DEFICIENCIES[deficiency]
    return [sum(weight * value for weight, value in zip(row, rgb)) for row in rows]


@pytest.mark.parametrize("name", TEXT_COLORS)
def test_text_stands_out_from_the_paper(name):
    assert contrast(getattr(style, name), style.PAPER) >= 4.5  # WCAG 1.4.3


@pytest.mark.parametrize("name", MARK_COLORS)
def test_marks_stand_out_from_the_paper(name):
    assert contrast(getattr(style, name), style.PAPER) >= 3  # WCAG 1.4.11


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_prefill_and_decode_differ_to_every_eye(deficiency):
    prefill, decode = seen(style.PREFILL, deficiency), seen(style.DECODE, deficiency)
    distance = sum((a - b) ** 2 for a, b in zip(prefill, decode)) ** 0.5
    assert distance > 0.3  # of at most 1.7; two blues of a common cycle differ by 0.1


def test_prefill_has_a_second_cue():
    assert style.PREFILL_HATCH
    assert style.PREFILL_MARKER != style.DECODE_MARKER


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.0, "0.00 µs"), (2e-5, "20.0 µs"), (0.0452, "45.2 ms"), (0.142, "142 ms"),
        (0.9996, "1.00 s"), (1.284, "1.28 s"), (63.2, "63.2 s"), (640.0, "640 s"),
        (float("nan"), "n/a"),
    ],
)  # fmt: skip
def test_durations_have_a_fitting_unit(seconds, text):
    assert style.format_seconds(seconds) == text


@pytest.mark.parametrize(
    "number, text",
    [(0.125, "0.125"), (11.06, "11.1"), (784.3, "784"), (1563.0, "1,560"), (2e6, "2,000,000")],
)
def test_numbers_have_three_digits_and_no_exponent(number, text):
    assert style.format_number(number) == text


@pytest.mark.parametrize(
    "factor, text", [(1.04, "1.0"), (9.04, "9.0"), (12.6, "13"), (1234, "1,200")]
)
def test_factors_have_two_digits(factor, text):
    assert style.format_factor(factor) == text


@pytest.mark.parametrize(
    "provenance",
    [
        "simulated", "simulated (module formula)", "live (laptop, 2 cores)",
        "recorded (NVIDIA H200, 2026-11-23)", "live (laptop) · simulated (module formula)",
    ],
)  # fmt: skip
def test_the_provenance_is_written_into_the_figure(provenance):
    figure = style.new_figure()
    style.label_provenance(figure, provenance)
    assert [text.get_text() for text in figure.texts] == [provenance]


@pytest.mark.parametrize("provenance", ["", "my laptop", "live", "recorded", "live (x) · guessed"])
def test_an_unknown_provenance_is_refused(provenance):
    with pytest.raises(ValueError, match="simulated, recorded or live"):
        style.label_provenance(style.new_figure(), provenance)


def test_a_figure_shows_itself_once_with_its_description():
    figure = style.describe(style.new_figure(4, 2), 'bars <"wide">')
    bundle = figure._repr_mimebundle_()
    assert bundle["text/plain"] == 'bars <"wide">'
    assert 'alt="bars &lt;&quot;wide&quot;&gt;"' in bundle["text/html"]
    assert 'width="400"' in bundle["text/html"]
    assert bundle["image/png"] in bundle["text/html"]


def test_a_figure_is_unknown_to_pyplot():
    import matplotlib.pyplot as plt

    style.new_figure()
    assert plt.get_fignums() == []


def test_an_empty_description_is_refused():
    with pytest.raises(ValueError, match="say what it shows"):
        style.describe(style.new_figure(), " ")


@pytest.mark.parametrize(
    "module",
    ["coursekit", "coursekit.plots", "coursekit.plots.blocking", "coursekit.plots.roofline",
     "coursekit.plots.prefill_decode", "coursekit.widgets"],
)  # fmt: skip
def test_importing_draws_nothing_in(module):
    heavy = "{'matplotlib', 'ipywidgets', 'ipympl', 'torch'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
