"""Chunked prefill equals one-shot prefill, can stop and resume, and refuses bad input whole."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.chunking import ChunkedPrefillProcessor
from coursekit.models import generate_greedy

NUM_GREEDY = 64
REAL_PROMPT = torch.randint(49152, (257,), generator=torch.Generator().manual_seed(7))


def one_shot(model, prompt, capacity=None):
    cache = model.new_cache(capacity or model.config.max_position_embeddings)
    return ChunkedPrefillProcessor(model, enable_chunking=False).process(prompt, cache)


def assert_equal_to_one_shot(model, prompt, job):
    """Logits within 1e-4 and NUM_GREEDY identical tokens, both in float32."""
    expected = one_shot(model, prompt, job.cache.capacity)
    assert (job.logits - expected.logits).abs().max() < 1e-4
    continuations = [generate_greedy(model, j.cache, j.logits, NUM_GREEDY) for j in (job, expected)]
    assert continuations[0] == continuations[1]


# --- equality ----------------------------------------------------------------------------

@pytest.mark.parametrize(
    "length, chunk_size",
    [
        (100, 128),  # shorter than a chunk
        (128, 128),  # one whole chunk
        (129, 128),  # last chunk of one token
        (256, 128),  # whole chunks only
        (257, 64),
        (23, 1),  # chunks of one token
        (1, 1),
        (1, 512),
    ],
)
def test_on_the_real_model_boundary_cases_equal_one_shot(smollm2, length, chunk_size):
    prompt = REAL_PROMPT[:length]
    cache = smollm2.new_cache(length + NUM_GREEDY)
    job = ChunkedPrefillProcessor(smollm2, chunk_size).process(prompt, cache)
    assert_equal_to_one_shot(smollm2, prompt, job)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_chunks_stops_and_resumes_equal_one_shot(tiny_model, data):
    length = data.draw(st.integers(1, 120), "prompt length")
    seed = data.draw(st.integers(0, 1000), "seed")
    prompt = torch.randint(97, (length,), generator=torch.Generator().manual_seed(seed))
    cache = tiny_model.new_cache(length + NUM_GREEDY)
    while True:  # every resume may take another chunk size
        size = data.draw(st.integers(1, 130), "chunk size")
        chunks_until_stop = data.draw(st.integers(1, 5), "chunks until stop")
        job = ChunkedPrefillProcessor(tiny_model, size).start(prompt, cache)
        for _ in zip(range(chunks_until_stop), job):
            pass
        if job.finished:
            break
    assert_equal_to_one_shot(tiny_model, prompt, job)


def test_resuming_on_the_real_model_equals_one_shot(smollm2):
    prompt, stops = REAL_PROMPT[:200], iter([False, True])
    cache = smollm2.new_cache(200 + NUM_GREEDY)
    processor = ChunkedPrefillProcessor(smollm2, 48)
    stopped = processor.process(prompt, cache, should_stop=lambda: next(stops))
    assert not stopped.finished and cache.length == 96
    assert_equal_to_one_shot(smollm2, prompt, processor.process(prompt, cache))


def test_a_cache_of_a_common_beginning_saves_its_tokens(tiny_model):
    first, second = torch.arange(40), torch.cat([torch.arange(30), torch.arange(20)])
    processor = ChunkedPrefillProcessor(tiny_model, 16)
    cache = processor.process(first).cache
    cache.truncate(30)
    job = processor.process(second, cache)
    assert_equal_to_one_shot(tiny_model, second, job)


def test_a_cache_that_holds_the_whole_prompt_recomputes_its_last_token(tiny_model):
    processor = ChunkedPrefillProcessor(tiny_model, 16)
    done = processor.process(torch.arange(40))
    again = processor.start(torch.arange(40), done.cache)
    assert [(p.start, p.end) for p in again] == [(39, 40)]
    assert torch.allclose(again.logits, done.logits, atol=1e-5)


# --- progress ----------------------------------------------------------------------------

def test_progress_tells_each_chunk_and_its_time(tiny_model):
    seen = []
    job = ChunkedPrefillProcessor(tiny_model, 16).process(torch.arange(40), on_chunk=seen.append)
    assert [(p.start, p.end, p.finished) for p in seen] == [
        (0, 16, False), (16, 32, False), (32, 40, True),
    ]  # fmt: skip
    assert all(p.num_prompt_tokens == 40 and p.duration_s > 0 for p in seen)
    assert job.cache.length == 40 and job.logits.shape == (97,)


@given(length=st.integers(1, 5000), size=st.integers(1, 5000), start=st.integers(0, 5000))
def test_chunks_cover_the_prompt_once_in_order(tiny_model, length, size, start):
    chunks = ChunkedPrefillProcessor(tiny_model, size).split_into_chunks(length, start)
    covered = [i for begin, end in chunks for i in range(begin, end)]
    assert covered == list(range(start, length))
    assert all(end - begin == size for begin, end in chunks[:-1])


def test_without_chunking_a_prompt_is_one_chunk(tiny_model):
    processor = ChunkedPrefillProcessor(tiny_model, 16, enable_chunking=False)
    assert processor.split_into_chunks(100) == [(0, 100)]
    assert len(list(processor.start(torch.arange(90)))) == 1


def test_a_finished_job_cannot_step_on(tiny_model):
    job = ChunkedPrefillProcessor(tiny_model, 16).process(torch.arange(10))
    with pytest.raises(RuntimeError, match="finished"):
        job.step()


# --- bad input ---------------------------------------------------------------------------

@pytest.mark.parametrize("size", [0, -1, 2.0, "8", None, True])
def test_a_bad_chunk_size_is_refused(tiny_model, size):
    with pytest.raises(ValueError, match=r"chunk_size must be an int >= 1, got .*try 512"):
        ChunkedPrefillProcessor(tiny_model, size)


@pytest.mark.parametrize(
    "prompt, message",
    [
        ([], "at least 1 token, got 0"),
        ([1, 97], r"0\.\.96, got 97; use this model's own tokenizer"),
        ([1, -1], r"0\.\.96, got -1"),
        ([0.5, 1.0], "must be integers"),
        ([True, False], "must be integers"),
        ([[1, 2]], r"1 dimension, got shape \(1, 2\)"),
        ([1] * 513, r"513 tokens, the model's context is 1\.\.512; shorten it"),
        ([1] * 33, r"33 tokens, the cache holds 1\.\.32; make the cache larger"),
    ],
)
def test_a_bad_prompt_is_refused_and_the_cache_untouched(tiny_model, prompt, message):
    cache = tiny_model.new_cache(32)
    with pytest.raises(ValueError, match=message):
        ChunkedPrefillProcessor(tiny_model, 8).process(prompt, cache)
    assert cache.length == 0


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_prompts_come_as_lists_tuples_arrays_or_tensors(tiny_model, kind):
    job = ChunkedPrefillProcessor(tiny_model, 8).process(kind([3, 1, 4, 1, 5]))
    assert job.cache.token_ids[:5].tolist() == [3, 1, 4, 1, 5]


def test_resuming_with_another_prompt_is_refused(tiny_model):
    processor = ChunkedPrefillProcessor(tiny_model, 8)
    cache = processor.process(torch.arange(20)).cache
    with pytest.raises(ValueError, match="20 tokens are not the beginning of this prompt"):
        processor.start(torch.arange(1, 30), cache)
    with pytest.raises(ValueError, match="not the beginning"):
        processor.start(torch.arange(10), cache)
    assert cache.length == 20


def test_a_chunk_that_fails_can_be_retried(tiny_model, monkeypatch):
    prompt = torch.arange(40)
    job = ChunkedPrefillProcessor(tiny_model, 16).start(prompt, tiny_model.new_cache(128))
    job.step()
    with monkeypatch.context() as patch:
        patch.setattr(tiny_model.layers[1].mlp, "forward", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.step()
    assert job.cache.length == 16 and not job.finished
    for _ in job:
        pass
    assert_equal_to_one_shot(tiny_model, prompt, job)


@pytest.mark.parametrize("num_tokens, message", [(0, ">= 1, got 0"), (100, "free cache slots")])
def test_generating_more_than_fits_is_refused(tiny_model, num_tokens, message):
    job = ChunkedPrefillProcessor(tiny_model, 8).process([1, 2], tiny_model.new_cache(10))
    with pytest.raises(ValueError, match=message):
        generate_greedy(tiny_model, job.cache, job.logits, num_tokens)
