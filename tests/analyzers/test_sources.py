"""Sources by name and by object: each answers with what stands behind it."""

import numpy as np
import pytest

from coursekit.analyzers.engine_source import EngineSource
from coursekit.analyzers.sources import CostSource, as_source, chunks_of, known_sources
from coursekit.cost import DEVICES, FormulaCost, RooflineCost, profiles, recorded_cost
from coursekit.models import SHAPES


def test_the_formula_costs_what_the_module_says():
    source = as_source("formula")
    assert source.prefill_s(2000) == FormulaCost().prefill_s(2000)
    assert source.decode_s(500) == FormulaCost().decode_s(500)
    assert source.label == "simulated (module formula)" and source.config is None


def test_a_roofline_by_name_is_the_roofline():
    source = as_source("roofline:h100/yi-34b", tensor_parallel=2)
    cost = RooflineCost("h100", "yi-34b", 2)
    assert source.label == cost.label
    timing = source.prefill(1000, 300)
    expected = [cost.iteration_s(0, 0, [(None, n, at)]) for n, at in
                ((300, 0), (300, 300), (300, 600), (100, 900))]  # fmt: skip
    assert timing.parts_s == tuple(expected) and timing.seconds == pytest.approx(sum(expected))
    assert source.decode(700, 8).seconds == cost.iteration_s(8, 5600, [])
    assert (source.config, source.hardware) == (SHAPES["yi-34b"], DEVICES["h100"])


@pytest.mark.parametrize("name", profiles())
def test_a_recorded_profile_is_labelled_as_recorded_and_knows_its_range(name):
    source, cost = as_source(f"recorded:{name}"), recorded_cost(name)
    profile = cost.profile
    assert source.label.startswith(f"recorded ({profile.device}") and profile.date in source.label
    assert source.config == SHAPES["smollm2-135m"] and source.hardware is None
    assert source.decode(100, 4).seconds == cost.iteration_s(4, 400, [])
    assert not source.prefill(source.limits.chunk // 2).extrapolated
    assert not source.decode(source.limits.context, source.limits.batch).extrapolated


@pytest.mark.filterwarnings("ignore:.*asked beyond what was measured")
def test_an_extrapolated_time_says_so_and_the_next_does_not():
    source = as_source(f"recorded:{next(iter(profiles()))}")
    assert source.prefill(5000).extrapolated and not source.prefill(100).extrapolated
    assert source.cost.extrapolated  # what the cost model itself has noted is kept


def test_objects_become_sources_and_sources_stay(tiny_model):
    cost = RooflineCost("a100", "llama-2-7b")
    source = as_source(cost)
    assert isinstance(source, CostSource) and source.cost is cost and as_source(source) is source
    assert isinstance(as_source(tiny_model), EngineSource)
    with pytest.raises(TypeError, match="a cost model, a live engine, a Decoder.*got int"):
        as_source(5)


@pytest.mark.parametrize("name", ["nope", "roofline:a100", "live:jax", ""])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(ValueError) as refused:
        as_source(name)
    assert all(known in str(refused.value) for known in known_sources())
    assert "recorded:" in str(refused.value) and "a100" in str(refused.value)


def test_unknown_parts_of_a_name_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="hardware must be one of .*a100"):
        as_source("roofline:z9/llama-2-7b")
    with pytest.raises(ValueError, match="model must be one of .*llama-2-7b"):
        as_source("roofline:a100/gpt-9")
    with pytest.raises(ValueError, match=f"unknown profile 'x'; known: {next(iter(profiles()))}"):
        as_source("recorded:x")


def test_chunks_cover_the_prompt_once():
    for length in (1, 7, 100):
        for size in (None, 1, 3, 100, 1000):
            spans = chunks_of(length, size)
            assert sum(n for n, _ in spans) == length
            assert [at for _, at in spans] == np.cumsum([0, *(n for n, _ in spans)])[:-1].tolist()


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda s: s.prefill(0), "prompt_length must be >= 1, got 0"),
        (lambda s: s.prefill(5, 0), "chunk_size must be >= 1, got 0"),
        (lambda s: s.decode(0), "context_length must be >= 1, got 0"),
        (lambda s: s.decode(5, 0), "batch_size must be >= 1, got 0"),
    ],
)
def test_sizes_below_one_are_refused(ask, message, tiny_model):
    for source in (as_source("formula"), as_source(tiny_model)):
        with pytest.raises(ValueError, match=message):
            ask(source)
