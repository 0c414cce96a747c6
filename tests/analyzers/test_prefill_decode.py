"""The analyzer asks any source the same questions and tabulates the answers."""

import pytest

from coursekit import LiveTorchSource, PrefillDecodeAnalyzer


def test_by_default_it_tabulates_the_module_formula():
    table = PrefillDecodeAnalyzer().analyze()
    assert table.prompt_length.tolist() == [100, 500, 1000, 2000, 4000, 8000]
    assert table.prefill_s.iloc[-1] == pytest.approx(64.01)
    assert table.ratio.iloc[-1] == pytest.approx(64.01 / 0.085)
    assert table.attrs["label"].startswith("simulated")


def test_a_live_source_answers_through_the_same_interface(tiny_model):
    table = PrefillDecodeAnalyzer(LiveTorchSource(tiny_model)).analyze([10, 300])
    assert (table[["prefill_s", "decode_s", "ratio"]] > 0).all(axis=None)
    assert table.attrs["label"].startswith("live (")


def test_on_the_real_model_prefill_grows_with_the_prompt_and_dwarfs_decode(smollm2):
    table = PrefillDecodeAnalyzer(LiveTorchSource(smollm2)).analyze([32, 1024])
    short, long = table.prefill_s
    assert long > 3 * short  # 32 times the tokens; seen: 15 to 20 times the time
    assert table.ratio.iloc[-1] > 3


def test_no_prompt_lengths_are_refused():
    with pytest.raises(ValueError, match="at least 1 length, got none"):
        PrefillDecodeAnalyzer().analyze([])


def test_a_length_past_the_context_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"1\.\.512 tokens, got 513"):
        LiveTorchSource(tiny_model).prefill_s(513)


def test_repeats_under_one_are_refused(tiny_model):
    with pytest.raises(ValueError, match="repeats must be >= 1, got 0"):
        LiveTorchSource(tiny_model, repeats=0)
