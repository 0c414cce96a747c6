"""The fidelity benchmark: what it says of a run that it meets, of a wrong one, and of none."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from coursekit.cost import CalibratedCost
from coursekit.cost.from_trace import measured_iterations
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.schedulers import TokenBudget
from coursekit.workload import Workload
from tests.analyzers import recorded

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Import a benchmark by name, with those that it imports."""

    def load(name):
        monkeypatch.syspath_prepend(str(FOLDER))
        for each in ("record", "fidelity", "fidelity_live"):
            monkeypatch.delitem(sys.modules, each, raising=False)
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return recorded.write(tmp_path_factory.mktemp("recorded"))


def test_a_run_that_is_met_holds_in_all_rows_and_what_is_left_out_shows(load, made, tmp_path):
    rows = load("fidelity").recorded_rows(made, None, tmp_path)
    assert len(rows) > 20 and all(row.holds for row in rows)
    left_out = {row.what: row.ours for row in rows if row.what.startswith("left out")}
    assert max(left_out.values()) > 0.2 > rows[15].ours
    assert (tmp_path / "fidelity_recorded.png").is_file()


def test_without_its_prompts_the_rows_say_so(load, made, tmp_path):
    for name in ("attention.csv", "dense.csv", "per_sequence.csv", "meta.json", "requests.jsonl"):
        (tmp_path / name).write_bytes((made / name).read_bytes())
    rows = load("fidelity").recorded_rows(tmp_path, None, None)
    assert all("prompts unknown" in row.note for row in rows[:15])


def test_a_wrong_number_of_kv_blocks_fails(load, made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    meta = json.loads((tmp_path / "meta.json").read_text())
    meta["kv_cache"]["num_gpu_blocks"] = 30
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    rows = load("fidelity").recorded_rows(tmp_path, None, None)
    assert [row.holds for row in rows[:15]].count(False) > 5 and rows[15].holds is False


def test_a_run_that_is_not_here_is_not_measured_yet(load, tmp_path):
    rows = load("fidelity").recorded_rows(tmp_path / "nowhere", None, None)
    assert len(rows) == 15 and {row.holds for row in rows} == {None}


def test_one_part_leaves_the_others_results_alone(load, made, tmp_path, monkeypatch):
    module = load("fidelity")
    monkeypatch.setattr(sys.modules["record"], "FOLDER", tmp_path)
    (tmp_path / "results").mkdir()
    other = {"name": "fidelity_live", "command": "", "date": "2031-02-03", "machine": "",
             "software": {}, "rows": []}  # fmt: skip
    (tmp_path / "results" / "fidelity_live.json").write_text(json.dumps(other))
    monkeypatch.setattr(sys, "argv", ["fidelity.py", "--part", "a", "--reference", str(made)])
    module.main()
    kept = json.loads((tmp_path / "results" / "fidelity_live.json").read_text())
    assert kept == other and (tmp_path / "results" / "fidelity_recorded.json").is_file()


def served(cost, workload):
    return Engine(TokenBudget(128, 8), SimulatedExecutor(cost), jump=False).run(workload.source())


class Skewed:
    """What a cost says, all iterations with a chunk `factor` times as long."""

    label = "simulated (skewed)"

    def __init__(self, cost, factor):
        self.cost, self.factor = cost, factor

    def iteration_s(self, num_decodes, decode_context, chunks):
        found = self.cost.iteration_s(num_decodes, decode_context, chunks)
        return found * (self.factor if chunks else 1.0)


@pytest.mark.parametrize("factor, holds", [(1.0, True), (1.5, False)])
def test_a_live_run_is_judged_by_its_errors(load, factor, holds):
    from coursekit.cost import RooflineCost

    module, rng = load("fidelity_live"), np.random.default_rng(0)
    workload = Workload(
        np.cumsum(rng.exponential(0.05, 60)), rng.integers(20, 400, 60), rng.integers(5, 60, 60)
    )
    true = RooflineCost("a100", "llama-2-7b")
    cost = CalibratedCost.fit(measured_iterations(served(true, workload)))
    measured = served(Skewed(true, factor), workload)
    measured.info["scheduler"] = {
        "token_budget": 128, "max_num_seqs": 8, "num_blocks": 9999, "block_size": 16,
        "max_model_len": 2048,
    }  # fmt: skip
    rows = module.rows_of("a workload", measured, measured, workload, cost, "", None)
    assert [row.unit for row in rows] == ["%"] * 4 + ["s"]
    assert rows[1].reference == 0.0 and rows[1].holds is holds and rows[4].holds is holds


def test_the_workloads_are_the_same_every_time_and_fit_the_engine(load):
    module = load("fidelity_live")
    for make in module.WORKLOADS.values():
        one, two = (make(np.random.default_rng(3)) for _ in range(2))
        assert np.array_equal(one.num_prompt_tokens, two.num_prompt_tokens)
        longest = (one.num_prompt_tokens + one.num_output_tokens).max()
        assert longest <= module.ENGINE["max_model_len"]
