"""What every cost model promises to the simulator."""

import subprocess
import sys
import timeit
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit.cost import CalibratedCost, FormulaCost, MeasuredIteration, RooflineCost


def _calibrated() -> CalibratedCost:
    """A cost calibrated up to large batches on what a roofline says."""
    truth, generator, measured = RooflineCost("l4", "mistral-7b"), np.random.default_rng(0), []
    for index in range(40):
        decodes = int(generator.integers(1, 100)) if index % 3 else 0
        context = decodes * int(generator.integers(1, 5000))
        chunk = (None, int(generator.integers(2, 4000)), int(generator.integers(0, 9000)))
        batch = (decodes, context, [chunk] if index % 3 != 1 else [])
        measured.append(MeasuredIteration(*batch, truth.iteration_s(*batch)))
    return CalibratedCost.fit(measured)


MODELS = {
    "formula": FormulaCost(),
    "roofline": RooflineCost("a100", "llama-2-7b"),
    "roofline, two devices": RooflineCost("a100-pcie", "yi-34b", 2, "sarathi-a100"),
    "calibrated": _calibrated(),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*extrapolated")
each_model = pytest.mark.parametrize("cost", MODELS.values(), ids=MODELS)
chunk_lists = st.lists(
    st.tuples(st.none(), st.integers(1, 4096), st.integers(0, 20_000)), max_size=4
)


@each_model
@given(
    num_decodes=st.integers(1, 300), context=st.integers(0, 10**6), length=st.integers(1, 300)
)
def test_a_run_of_decodes_is_its_iterations_bit_for_bit(cost, num_decodes, context, length):
    walked = [
        cost.iteration_s(num_decodes, context + k * num_decodes, ()) for k in range(length)
    ]
    assert cost.decode_run_s(num_decodes, context, length).tolist() == walked


@each_model
@given(num_decodes=st.integers(1, 100), context=st.integers(0, 10**5), chunks=chunk_lists)
def test_more_work_never_takes_less_time(cost, num_decodes, context, chunks):
    seconds = cost.iteration_s(num_decodes, context, chunks)
    assert 0 < seconds < np.inf
    assert cost.iteration_s(num_decodes, context + 100, chunks) >= seconds
    assert cost.iteration_s(num_decodes, context, [*chunks, (None, 64, 500)]) >= seconds


@each_model
def test_later_chunks_of_a_prompt_take_longer(cost):
    seconds = [cost.iteration_s(0, 0, [(None, 512, at)]) for at in range(0, 4096, 512)]
    assert seconds == sorted(seconds) and seconds[-1] > seconds[0]


@pytest.mark.parametrize("cost", [*MODELS.values()][1:], ids=[*MODELS][1:])
def test_a_chunk_of_one_token_costs_what_a_decode_does(cost):
    """With prefix caching, or after a preemption, decodes come as chunks."""
    decodes, chunk = cost.iteration_s(5, 5000, ()), (None, 1, 1000)
    assert cost.iteration_s(4, 4000, [chunk]) == pytest.approx(decodes, rel=1e-12)


@each_model
def test_chunks_may_be_named_tuples_of_requests(cost):
    class Chunk(NamedTuple):
        request: object
        num_tokens: int
        context: int

    plain = cost.iteration_s(3, 900, [(None, 100, 20)])
    assert cost.iteration_s(3, 900, [Chunk(object(), 100, 20)]) == plain


@each_model
def test_labels_say_simulated(cost):
    assert cost.label.startswith("simulated (") and cost.label.endswith(")")


@each_model
def test_an_iteration_is_priced_in_microseconds(cost):
    """Ten times what a quiet machine takes, so as not to fail on a busy one."""
    chunks = [(None, 500, 100)]
    one = min(timeit.repeat(lambda: cost.iteration_s(64, 50_000, chunks), number=2000, repeat=5))
    run = min(timeit.repeat(lambda: cost.decode_run_s(64, 50_000, 100), number=200, repeat=5))
    assert one / 2000 < 10e-6
    assert run / 200 < 80e-6


def test_cost_models_load_without_torch():
    code = (
        "import sys; from coursekit.cost import RooflineCost, CalibratedCost, FormulaCost;"
        "RooflineCost('t4', 'smollm2-135m'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
