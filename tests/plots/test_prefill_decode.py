"""Time against prompt length: both phases of each source, told apart, on log axes."""

import pandas as pd
import pytest

from coursekit.plots import style
from coursekit.plots.prefill_decode import against_prompt_length


def table(label="live (test device)", scale=1.0, lengths=(100, 1000, 8000)):
    frame = pd.DataFrame({"prompt_length": lengths})
    frame["prefill_s"] = [scale * 0.001 * length for length in lengths]
    frame["decode_s"] = 0.04 * scale
    frame.attrs["label"] = label
    return frame


def lines(figure) -> dict:
    return {line.get_label(): line for line in figure.axes[0].lines}


def test_both_phases_of_each_source_are_drawn_with_their_numbers():
    measured, formula = table(), table("simulated (module formula)", scale=3)
    drawn = lines(against_prompt_length(measured, formula))
    assert list(drawn) == [
        "prefill, live", "decode, live", "prefill, module formula", "decode, module formula"
    ]  # fmt: skip
    assert list(drawn["prefill, live"].get_xdata()) == [100, 1000, 8000]
    assert list(drawn["prefill, module formula"].get_ydata()) == list(formula.prefill_s)


def test_phases_differ_in_colour_and_marker_sources_in_line_and_filling():
    drawn = lines(against_prompt_length(table(), table("simulated (module formula)")))
    prefill, decode = drawn["prefill, live"], drawn["decode, live"]
    formula = drawn["prefill, module formula"]
    assert prefill.get_color() == formula.get_color() == style.PREFILL != decode.get_color()
    assert prefill.get_marker() == formula.get_marker() != decode.get_marker()
    assert prefill.get_linestyle() != formula.get_linestyle()
    assert formula.get_markerfacecolor() == style.PAPER != prefill.get_markerfacecolor()


def test_axes_are_logarithmic_and_name_the_lengths():
    figure = against_prompt_length(table())
    ax = figure.axes[0]
    figure.draw_without_rendering()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "1,000", "8,000"]
    assert {"100 ms", "1 s"} <= {tick.get_text() for tick in ax.get_yticklabels()}


def test_the_figure_says_where_its_numbers_are_from_and_describes_them():
    figure = against_prompt_length(table(), table("simulated (module formula)"))
    assert figure.texts[-1].get_text() == "live (test device) · simulated (module formula)"
    assert "at 8,000 tokens prefill takes 8.00 s and one decode step 40.0 ms" in figure.alt_text


@pytest.mark.parametrize(
    "tables, problem",
    [
        ([], "1 to 4 tables, got 0"),
        ([table()] * 5, "1 to 4 tables, got 5"),
        ([table().drop(columns="decode_s")], "lacks .'decode_s'."),
        ([table(lengths=())], "0 rows"),
        ([table(label="")], "no attrs"),
        ([table(label="somewhere")], "simulated, recorded or live"),
    ],
)
def test_tables_that_can_not_be_drawn_are_refused(tables, problem):
    with pytest.raises(ValueError, match=problem):
        against_prompt_length(*tables)
