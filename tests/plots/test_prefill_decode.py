"""Time against prompt length: both phases of each source, told apart, on log axes."""

import pandas as pd
import pytest

from coursekit.analyzers import PrefillDecodeAnalyzer
from coursekit.plots import style
from coursekit.plots.prefill_decode import against_prompt_length, by_chunk_and_batch, caption


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


# --- By chunk and batch ---


@pytest.fixture(scope="module")
def tables():
    analyzer = PrefillDecodeAnalyzer.of("roofline:a100/llama-2-7b")
    prefill = analyzer.prefill_table([256, 1024], [64, 512])
    return prefill, analyzer.decode_table([100, 1000], [1, 16])


def test_each_chunk_size_and_each_batch_has_a_line_with_its_times(tables):
    prefill, decode = tables
    left, right = by_chunk_and_batch(*tables).axes
    by_name = {line.get_label(): line for line in left.lines}
    assert list(by_name) == ["one shot", "chunks of 512", "chunks of 64"]
    chosen = prefill[(prefill.chunk_size == 64) & ~prefill.one_shot]
    assert list(by_name["chunks of 64"].get_ydata()) == list(chosen.prefill_s)
    assert list(by_name["chunks of 512"].get_xdata()) == [1024]
    steps = {line.get_label(): list(line.get_ydata()) for line in right.lines}
    assert steps["batch of 16"] == list(decode.step_s[decode.batch_size == 16])
    assert len({line.get_marker() for line in left.lines}) == 3
    assert {left.get_xscale(), left.get_yscale(), right.get_yscale()} == {"log"}


def test_the_caption_and_the_text_state_what_was_found(tables):
    prefill, decode = tables
    slow = prefill.iloc[-2]
    assert (slow.prompt_length, slow.chunk_size) == (1024, 64)
    said = caption(prefill, decode)
    assert said.startswith("1,024 tokens in chunks of 64: ") and "a decode batch of 16: " in said
    assert f"{1 + slow.overhead:.1f} times one shot" in said
    figure = by_chunk_and_batch(prefill, decode)
    assert said in figure.alt_text and "1,024 tokens in chunks of 64" in figure.alt_text
    assert figure.texts[-1].get_text() == prefill.attrs["label"]
    faster = prefill.assign(prefill_s=prefill.prefill_s.where(prefill.one_shot, 1e-6))
    faster.attrs = prefill.attrs
    assert "0.0 times one shot" in caption(faster, decode)


def test_a_prompt_in_one_shot_and_a_single_batch_are_captioned_too(tables):
    prefill, decode = tables
    whole, one = prefill[prefill.one_shot], decode[decode.batch_size == 1]
    assert caption(whole, one) == "1,024 tokens in one shot: 59.9 ms"
    assert len(by_chunk_and_batch(whole, one).axes[0].lines) == 1


def test_tables_by_chunk_that_can_not_be_drawn_are_refused(tables):
    prefill, decode = tables
    with pytest.raises(ValueError, match="lacks .'one_shot'."):
        by_chunk_and_batch(prefill.drop(columns="one_shot"), decode)
    many = PrefillDecodeAnalyzer.of("formula").decode_table([100], range(1, 8))
    with pytest.raises(ValueError, match="at most 6 lines can be told apart, got 7"):
        by_chunk_and_batch(prefill, many)
