"""Sampling: greedy is the most likely, draws follow the probabilities, bad settings are refused."""

import pytest
import torch

from coursekit.models.sampling import Sampling

LOGITS = torch.tensor([1.0, 3.0, 2.0, -1.0]).log_softmax(0)


def draw(sampling: Sampling, n: int) -> torch.Tensor:
    rows = LOGITS.expand(n, -1)
    tokens = sampling.choose(rows, [(request, 7) for request in range(n)])
    return torch.bincount(torch.tensor(tokens), minlength=4) / n


def test_temperature_0_takes_the_most_likely_and_the_first_of_equals():
    assert Sampling().choose(torch.tensor([[0.0, 2.0, 2.0]]), [(0, 0)]) == [1]


def test_draws_have_the_probabilities_of_the_logits():
    assert torch.allclose(draw(Sampling(1.0), 4000), LOGITS.exp(), atol=0.03)


def test_top_p_leaves_out_the_unlikely():
    shares = draw(Sampling(1.0, top_p=0.7), 500)
    assert shares[0] == shares[3] == 0 and shares[2] > 0  # 0.63 and then 0.23 reach 0.7


def test_a_draw_is_the_same_for_the_same_seed_request_and_place():
    places = [(request, 3) for request in range(50)]
    rows = LOGITS.expand(50, -1)
    first = Sampling(2.0, seed=4).choose(rows, places)
    assert Sampling(2.0, seed=4).choose(rows.flip(0), places) == first
    assert Sampling(2.0, seed=5).choose(rows, places) != first


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"seed": -1}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**bad)
