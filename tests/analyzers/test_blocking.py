"""The blocking scenario: the right batches in the right order, and what they measure."""

import numpy as np
import pytest

from coursekit.analyzers import BlockingRun, Iteration, measure_blocking

RUN = BlockingRun(
    label="simulated (test)", prompt_length=30, chunk_size=20, num_streams=2, arrival_s=2.0,
    iterations=(
        Iteration(0.0, 1.0, 0, 2), Iteration(1.0, 2.0, 0, 2), Iteration(2.0, 7.0, 20, 2),
        Iteration(7.0, 10.0, 10, 2), Iteration(10.0, 11.0, 0, 2),
    ),
)  # fmt: skip


def test_the_figures_of_a_known_run():
    assert RUN.itls_s.tolist() == [1.0, 1.0, 5.0, 3.0, 1.0]
    assert (RUN.worst_itl_s, RUN.baseline_itl_s, RUN.blocking_time_s) == (5.0, 1.0, 4.0)
    assert (RUN.ttft_s, RUN.num_chunks) == (8.0, 2)


@pytest.mark.parametrize("chunk_size, chunks", [(16, [16, 16, 8]), (40, [40]), (None, [40])])
def test_each_iteration_holds_one_chunk_and_a_token_of_every_stream(tiny_model, chunk_size, chunks):
    run = measure_blocking(
        tiny_model, prompt_length=40, chunk_size=chunk_size, num_streams=3, lead_steps=2,
        tail_steps=1,
    )  # fmt: skip
    assert [it.num_prefill_tokens for it in run.iterations] == [0, 0, *chunks, 0]
    assert all(it.num_decode_tokens == 3 for it in run.iterations)
    assert run.num_chunks == len(chunks)
    assert run.arrival_s == run.iterations[1].end_s


def test_time_runs_forward_without_overlap(tiny_model):
    run = measure_blocking(tiny_model, prompt_length=40, chunk_size=8)
    edges = np.array([(it.start_s, it.end_s) for it in run.iterations]).ravel()
    assert (np.diff(edges) >= 0).all()
    assert 0 < run.ttft_s <= run.iterations[-1].end_s


def test_on_the_real_model_chunking_shrinks_the_worst_gap(smollm2):
    def worst_gap(chunk_size):  # the best of three: a shared machine can stall any one run
        sizes = {"prompt_length": 512, "chunk_size": chunk_size, "tail_steps": 1}
        return min(measure_blocking(smollm2, **sizes).worst_itl_s for _ in range(3))

    assert worst_gap(None) > 2 * worst_gap(64)  # seen: 5 to 7 times


def test_it_reports_every_iteration_and_stops_when_told(tiny_model):
    seen = []
    run = measure_blocking(
        tiny_model, prompt_length=100, chunk_size=10, lead_steps=3, on_iteration=seen.append,
        should_stop=lambda: len(seen) >= 5,
    )  # fmt: skip
    assert tuple(seen) == run.iterations and len(seen) == 5


def test_a_run_stopped_at_once_still_has_its_figures(tiny_model):
    run = measure_blocking(tiny_model, prompt_length=50, chunk_size=10, should_stop=lambda: True)
    assert run.num_chunks == 1 and run.ttft_s > 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt_length": 0}, "prompt_length must be >= 1, got 0"),
        ({"num_streams": 0}, "num_streams must be >= 1, got 0"),
        ({"context_length": 0}, "context_length must be >= 1"),
        ({"lead_steps": 0}, "lead_steps must be >= 1"),
        ({"tail_steps": -1}, "tail_steps must be >= 0"),
        ({"chunk_size": 0}, "chunk_size must be an int >= 1, got 0"),
        ({"prompt_length": 600}, "600 tokens, the model's context is 512"),
        ({"chunk_size": 1, "prompt_length": 500}, "model's context is 512; shorten"),
    ],
)
def test_impossible_scenarios_are_refused_before_they_start(tiny_model, change, message):
    with pytest.raises(ValueError, match=message):
        measure_blocking(tiny_model, **{"prompt_length": 40, "chunk_size": 8, **change})
