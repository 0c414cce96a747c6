"""A live engine as a source: it runs what was asked, leaves nothing behind, refuses the rest."""

import time

import pytest

from coursekit.analyzers.decode_baseline import decode_contexts
from coursekit.analyzers.engine_source import EngineSource
from coursekit.analyzers.token_pieces import token_pieces
from coursekit.kv_cache import BlockCounter
from coursekit.live import TorchEngine
from coursekit.schedulers import InterleavedPrefillDecodeScheduler, OrcaMixed, TokenBudget


@pytest.fixture
def engine(tiny_model):
    return TorchEngine(tiny_model, TokenBudget(64, 5), 300)


def steps_of(engine, monkeypatch):
    """Every step that the engine takes from now on."""
    steps, step = [], engine.step
    monkeypatch.setattr(engine, "step", lambda: steps.append(step()) or steps[-1])
    return steps


def test_a_prompt_runs_in_the_chunks_asked_for_and_their_times_are_summed(engine, monkeypatch):
    source = EngineSource(engine, repeats=3)
    steps = steps_of(engine, monkeypatch)
    timing = source.prefill(100, 30)
    assert [step.num_prefill_tokens for step in steps] == [30, 30, 30, 10] * 3
    rounds = [sum(step.duration_s for step in steps[at : at + 4]) for at in (0, 4, 8)]
    assert timing.seconds == pytest.approx(sorted(rounds)[1])
    assert timing.spread == pytest.approx((max(rounds) - min(rounds)) / sorted(rounds)[1])
    firsts = sorted(steps[at].duration_s for at in (0, 4, 8))
    assert len(timing.parts_s) == 4 and timing.parts_s[0] == pytest.approx(firsts[1])


@pytest.mark.parametrize("context, batch", [(50, 4), (250, 5), (8, 2), (283, 1)])
def test_decode_steps_are_of_batch_and_context_asked_for(engine, monkeypatch, context, batch):
    source = EngineSource(engine, repeats=3)
    steps = steps_of(engine, monkeypatch)
    timing = source.decode(context, batch)
    measured = steps[-9:]
    assert all((s.num_decode_tokens, s.num_prefill_tokens) == (batch, 0) for s in measured)
    rounds = [sorted(s.duration_s for s in measured[at::3])[1] for at in range(3)]
    assert timing.seconds == sorted(rounds)[1]
    assert timing.spread == pytest.approx((max(rounds) - min(rounds)) / timing.seconds)
    trace = engine.trace()
    held = decode_contexts(trace, token_pieces(trace))[-9:] / batch
    assert held[0] == pytest.approx(context, abs=4)


def test_a_slow_step_shows_in_the_time(engine, monkeypatch):
    """Planted: each step takes 20 ms more."""
    source = EngineSource(engine, repeats=1)
    execute = engine.executor.execute
    monkeypatch.setattr(
        engine.executor, "execute", lambda *batch: time.sleep(0.02) or execute(*batch)
    )
    assert source.decode(20, 2).seconds > 0.02
    assert source.decode_s(20) > 0.02
    assert source.prefill(60, 20).seconds > 0.06


def test_it_knows_the_model_and_its_limits(engine, tiny_config):
    source = EngineSource(engine)
    assert source.config == tiny_config and source.bytes_per_value == 4 and source.hardware is None
    assert source.limits.chunk == 64 and source.limits.batch == 5
    assert source.decode(source.limits.context, source.limits.batch).seconds > 0
    assert source.label == engine.label and source.label.startswith("live (")


def test_the_engine_is_left_as_it_was(engine):
    engine.token_budget = 17
    source = EngineSource(engine)
    source.prefill(40, 8)
    source.decode(30, 3)
    assert engine.token_budget == 17 and not engine.has_requests
    assert engine.executor.cache.num_free == 5
    source.close()


def test_sizes_past_the_engine_are_refused_and_leave_nothing(engine):
    source = EngineSource(engine)
    with pytest.raises(ValueError, match=r"num_decodes \+ chunk_size must be <= 64.*got 65"):
        source.prefill(65)
    with pytest.raises(ValueError, match="prompt_length must be <= 299.*got 300"):
        source.prefill(300, 20)
    for context, batch in ((284, 2), (20, 6)):
        said = rf"1\.\.283 and batch_size in 1\.\.5, got {context} and {batch}"
        with pytest.raises(ValueError, match=said):
            source.decode(context, batch)
    assert not engine.has_requests
    engine.submit(10, 3)
    with pytest.raises(ValueError, match="serves 1 requests; let them finish"):
        source.prefill(10)


def test_a_policy_that_does_not_cut_prompts_is_refused(tiny_model):
    source = EngineSource(TorchEngine(tiny_model, OrcaMixed(64, 5), 300))
    with pytest.raises(ValueError, match=r"chunks of 30 ran as \[60\]: take an engine whose"):
        source.prefill(60, 30)


def test_too_little_kv_cache_for_the_batch_is_refused(tiny_model):
    scheduler = TokenBudget(64, 5, BlockCounter(80, block_size=4))
    engine = TorchEngine(tiny_model, scheduler, 300)
    source = EngineSource(engine)
    with pytest.raises(ValueError, match=r"of batch_size 5 only \d requests.*more KV cache"):
        source.decode(100, 5)
    assert source.decode(100, 2).seconds > 0 and not engine.has_requests


def test_a_policy_with_a_chunk_size_in_place_of_a_budget_will_do(tiny_model):
    scheduler = InterleavedPrefillDecodeScheduler(32, 4)
    source = EngineSource(TorchEngine(tiny_model, scheduler, 300))
    assert len(source.prefill(60, 20).parts_s) == 3


def test_repeats_under_one_are_refused(engine):
    with pytest.raises(ValueError, match="repeats must be >= 1, got 0"):
        EngineSource(engine, repeats=0)
