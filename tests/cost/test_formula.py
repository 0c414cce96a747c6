"""The teaching formula: the module's constants, in seconds."""

import pytest

from coursekit.cost import FormulaCost


@pytest.mark.parametrize("length, seconds", [(100, 0.020), (1000, 1.010), (8000, 64.010)])
def test_prefill_is_ten_milliseconds_plus_a_microsecond_per_token_squared(length, seconds):
    assert FormulaCost().prefill_s(length) == pytest.approx(seconds)


@pytest.mark.parametrize("context, seconds", [(100, 0.006), (8000, 0.085)])
def test_decode_is_five_milliseconds_plus_ten_microseconds_per_token(context, seconds):
    assert FormulaCost().decode_s(context) == pytest.approx(seconds)


def test_its_label_says_that_it_is_simulated():
    assert FormulaCost().label.startswith("simulated")


@pytest.mark.parametrize("length", [0, -5])
def test_lengths_under_one_are_refused(length):
    with pytest.raises(ValueError, match=f"prompt_length must be >= 1 token, got {length}"):
        FormulaCost().prefill_s(length)
    with pytest.raises(ValueError, match="context_length must be >= 1"):
        FormulaCost().decode_s(length)
