"""A recorded run is run again: our own comes out exactly, a real vLLM's within 2%."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coursekit.analyzers.fidelity import compare, predicted_metrics
from coursekit.analyzers.recorded_run import read_recorded_run
from coursekit.analyzers.rerun import EngineSettings, rerun, rerun_recorded
from coursekit.cost import RooflineCost
from coursekit.cost.grid_files import read_grids
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import TokenBudget
from coursekit.workload import Workload
from tests.analyzers import recorded

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT.parent / "shared" / "reference" / "vllm-rtx4090-llama-3.1-8b"
PROMPTS = ROOT.parent / "data" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "meta.json").is_file(), reason="the recorded run is not here"
)
needs_prompts = pytest.mark.skipif(not PROMPTS.is_file(), reason="the run's prompts are not here")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return recorded.write(tmp_path_factory.mktemp("recorded"))


def errors(folder, prompts, warm_up=True, **changes) -> np.ndarray:
    run, grids = read_recorded_run(folder, prompts), read_grids(folder)
    settings = replace(EngineSettings.of(run.meta), **changes)
    predicted = predicted_metrics(rerun_recorded(run, grids, settings, warm_up))
    return np.array([one.error for one in compare(predicted, run.metrics())])


def test_our_own_run_comes_out_as_it_was(made):
    assert np.abs(errors(made, made / "prompts.jsonl")).max() < 1e-4  # wall clocks are coarse


@pytest.mark.parametrize(
    "change",
    [
        {"num_blocks": 45}, {"enable_prefix_caching": False}, {"async_scheduling": False},
        {"capture_sizes": ()}, {"num_layers": 29}, {"max_num_batched_tokens": 128},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_setting_that_is_wrong_shows(made, change):
    assert np.abs(errors(made, made / "prompts.jsonl", **change)).max() > 2e-3


def test_so_do_prompts_that_are_not_known_and_a_warm_up_left_out(made):
    assert np.abs(errors(made, None)).max() > 2e-3
    assert np.abs(errors(made, made / "prompts.jsonl", warm_up=False)).max() > 2e-3


@needs_reference
def test_of_a_real_vllm_on_a_gpu_the_means_are_met_without_its_prompts():
    found = errors(REFERENCE, None)
    assert np.abs(found[::5]).max() < 0.02


@needs_reference
@needs_prompts
def test_with_its_prompts_all_fifteen_are():
    assert np.abs(errors(REFERENCE, PROMPTS)).max() < 0.02


@needs_reference
@pytest.mark.parametrize("num_blocks", [1_800, 3_400])
def test_the_wrong_number_of_kv_blocks_is_not_within_it(num_blocks):
    assert np.abs(errors(REFERENCE, None, num_blocks=num_blocks)[::5]).max() > 0.1


def test_settings_are_those_of_the_record(made):
    settings = EngineSettings.of(read_recorded_run(made).meta)
    assert settings.num_blocks == recorded.BLOCKS and settings.num_layers == 30
    assert settings.capture_sizes == (1, 8, 16, 32) and settings.async_scheduling


@pytest.mark.parametrize(
    "where, value, message",
    [
        (("kv_cache",), None, "lacks 'kv_cache'"),
        (("model",), "someone/nothing-1b", "unknown model 'someone/nothing-1b'; known:"),
        (("resolved_config", "scheduler_config", "policy"), "priority", "must be 'fcfs'"),
    ],
)
def test_a_record_that_does_not_say_enough_is_refused(made, where, value, message):
    meta = json.loads((made / "meta.json").read_text())
    part = meta
    for key in where[:-1]:
        part = part[key]
    if value is None:
        del part[where[-1]]
    else:
        part[where[-1]] = value
    with pytest.raises(ValueError, match=message):
        EngineSettings.of(meta)


def test_without_graphs_nothing_is_padded(made):
    meta = json.loads((made / "meta.json").read_text())
    meta["resolved_config"]["compilation_config"]["cudagraph_mode"] = 0
    assert EngineSettings.of(meta).capture_sizes == ()


def test_a_run_of_ours_is_run_again_with_its_own_settings():
    workload = Workload(np.arange(30) * 0.01, [200] * 30, [30] * 30)
    cost = RooflineCost("a100", "llama-2-7b")
    scheduler = TokenBudget(128, 6, BlockCounter(90, 16), 1000)
    measured = Engine(scheduler, SimulatedExecutor(cost)).run(workload.source())
    again = rerun(measured, workload, cost)
    assert np.array_equal(again.requests["finished_s"], measured.requests["finished_s"])
    assert again.info["scheduler"]["num_blocks"] == 90
    del measured.info["scheduler"]["num_blocks"]
    with pytest.raises(ValueError, match="does not say its engine's num_blocks"):
        rerun(measured, workload, cost)
