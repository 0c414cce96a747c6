"""A cost out of kernel grids: checked exactly on a made device whose cost is known."""

import numpy as np
import pytest
from tests.cost.grid_folder import (
    DENSE_US, HEAD_US, LAUNCH_US, chunk_us, decode_us, linear, mixed_us, write,
)  # fmt: skip
from hypothesis import given
from hypothesis import strategies as st

from coursekit.cost.grid_files import read_grids
from coursekit.cost.kernel_grid import KernelGridCost

LAYERS = 5


@pytest.fixture(scope="module")
def grids(tmp_path_factory):
    return read_grids(write(tmp_path_factory.mktemp("grids")))


@pytest.fixture(scope="module")
def cost(grids):
    return KernelGridCost(grids, LAYERS)


def expected_s(tokens, sequences, attention_us) -> float:
    """The known cost: a norm twice a layer, the embedding once, the head for each sequence."""
    layer = linear(DENSE_US["qkv"], tokens) + 2 * linear(DENSE_US["layernorm"], tokens)
    head = sum(linear(pair, sequences) for pair in HEAD_US.values())
    once = linear(DENSE_US["embedding"], tokens)
    return 1e-6 * (once + LAYERS * (layer + attention_us) + head)


@given(n=st.integers(1, 100), mean=st.integers(5, 20_000))
def test_decodes_cost_what_their_kernels_cost(cost, n, mean):
    expected = expected_s(n, n, decode_us(n, mean))
    assert cost.iteration_s(n, n * mean, ()) == pytest.approx(expected)


@given(size=st.integers(10, 3000), context=st.integers(0, 9000))
def test_so_does_a_chunk(cost, size, context):
    expected = expected_s(size, 1, chunk_us(size, context))
    assert cost.iteration_s(0, 0, [(None, size, context)]) == pytest.approx(expected)


@given(
    n=st.integers(1, 60), mean=st.integers(5, 9000), size=st.integers(10, 1500),
    context=st.integers(0, 6000),
)  # fmt: skip
def test_and_a_chunk_with_decodes_beside_it(cost, n, mean, size, context):
    expected = expected_s(n + size, n + 1, mixed_us(size, context, n, mean))
    assert cost.iteration_s(n, n * mean, [(None, size, context)]) == pytest.approx(expected)


def test_several_chunks_share_one_launch(cost):
    chunks = [(None, 100, 0), (None, 40, 900), (None, 500, 30)]
    attention = sum(chunk_us(*each[1:]) for each in chunks) - 2 * least_us()
    found = cost.iteration_s(0, 0, chunks)
    assert found == pytest.approx(expected_s(640, 3, attention))


def least_us() -> float:
    """The least that was measured: of the smallest chunk, or of one decode."""
    return min(chunk_us(10, 0), decode_us(1, 5))


def test_what_decodes_add_to_several_chunks_is_what_they_add_to_one_as_large(cost):
    chunks = [(None, 100, 0), (None, 300, 400)]
    attention = sum(chunk_us(*each[1:]) for each in chunks) - least_us()
    attention += mixed_us(400, 300, 7, 80) - chunk_us(400, 300)
    assert cost.iteration_s(7, 560, chunks) == pytest.approx(expected_s(407, 9, attention))


def test_a_chunk_of_one_token_is_a_decode(cost):
    assert cost.iteration_s(3, 60, [(None, 1, 20)]) == cost.iteration_s(4, 80, ())


@given(n=st.integers(1, 50), context=st.integers(0, 100_000), count=st.integers(1, 300))
def test_a_run_of_decodes_is_its_iterations_bit_for_bit(cost, n, context, count):
    one_by_one = [cost.iteration_s(n, context + k * n, ()) for k in range(count)]
    assert cost.decode_run_s(n, context, count).tolist() == one_by_one


def test_graphs_pad_the_dense_operators_and_nothing_else(grids):
    cost = KernelGridCost(grids, LAYERS, capture_sizes=(8, 1, 16))
    padded = expected_s(16, 9, decode_us(9, 100))
    assert cost.iteration_s(9, 900, ()) == pytest.approx(padded)
    assert cost.decode_run_s(9, 900, 1)[0] == cost.iteration_s(9, 900, ())
    assert [cost.padded(n) for n in (1, 2, 8, 9, 16, 17, 400)] == [1, 8, 8, 16, 16, 17, 400]


def test_the_hosts_time_is_added_once(grids, cost):
    waiting = KernelGridCost(grids, LAYERS, host_s=0.25)
    for batch in ((2, 30, ()), (2, 30, [(None, 64, 0)])):
        assert waiting.iteration_s(*batch) - cost.iteration_s(*batch) == pytest.approx(0.25)
    assert np.allclose(waiting.decode_run_s(2, 30, 3) - cost.decode_run_s(2, 30, 3), 0.25)


def test_its_label_says_which_device_and_when(cost):
    assert cost.label == "simulated (A Made One, kernels recorded 2031-02-03)"


def test_without_the_profilers_words_it_is_an_unknown_device(tmp_path):
    (write(tmp_path) / "meta.yaml").unlink()
    label = KernelGridCost(read_grids(tmp_path), 1).label
    assert label == "simulated (unknown device, kernels recorded undated)"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"num_layers": 1, "capture_sizes": (4, 0)}, "capture_sizes must be >= 1 token, got 0"),
        ({"num_layers": 1, "host_s": -1.0}, "host_s must be >= 0, got -1.0"),
    ],
)
def test_impossible_settings_are_refused(grids, settings, message):
    with pytest.raises(ValueError, match=message):
        KernelGridCost(grids, **settings)


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("attention.csv", "n_decode", "decodes", "lacks the column 'n_decode'"),
        ("dense.csv", "qkv,30,", "qkv,-30,", "tokens must be finite and >= 0, got -30 in row 1"),
        ("dense.csv", "qkv,30,", "qkv,thirty,", "tokens must hold numbers"),
        ("per_sequence.csv", "90.25", "0", "time_us must be finite and > 0, got 0.0 in row 0"),
        ("attention.csv", "\n0,0,", "\n10,0,", "no row with n_decode and kv_decode alone"),
    ],
)
def test_a_damaged_table_is_refused_by_name(tmp_path, name, old, new, message):
    path = write(tmp_path) / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read_grids(tmp_path)


def test_a_missing_table_is_named(tmp_path):
    (write(tmp_path) / "dense.csv").unlink()
    with pytest.raises(FileNotFoundError, match="dense.csv is missing; a profile has"):
        read_grids(tmp_path)


def test_the_launch_is_in_every_time_of_the_made_device():
    assert min(chunk_us(0, 0), decode_us(0, 0)) == LAUNCH_US
