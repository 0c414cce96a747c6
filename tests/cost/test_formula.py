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


def test_an_iteration_of_one_kind_costs_what_the_module_says():
    cost = FormulaCost()
    assert cost.iteration_s(0, 0, [(None, 1000, 0)]) == pytest.approx(cost.prefill_s(1000))
    assert cost.iteration_s(1, 800, ()) == pytest.approx(cost.decode_s(800))


def test_chunks_sum_to_the_prompt_but_for_a_base_each():
    cost = FormulaCost()
    chunks = [cost.iteration_s(0, 0, [(None, 250, at)]) for at in range(0, 1000, 250)]
    assert sum(chunks) - 3 * cost.prefill_base_s == pytest.approx(cost.prefill_s(1000))


def test_decodes_cost_by_their_mean_context_so_the_batch_is_free():
    cost = FormulaCost()
    assert cost.iteration_s(8, 8 * 500, ()) == cost.iteration_s(1, 500, ())


def test_a_mixed_iteration_pays_one_base():
    cost = FormulaCost()
    riding = cost.iteration_s(4, 2000, [(None, 100, 0)]) - cost.iteration_s(0, 0, [(None, 100, 0)])
    assert riding == pytest.approx(cost.decode_s(500) - cost.decode_base_s)
