"""vLLM as a live engine: the same tokens at any budget, a complete record, nothing left behind."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from coursekit.live.vllm_engine import VllmEngine
from coursekit.simulate import make_scheduler

HAS_VLLM = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HAS_VLLM, reason="no vLLM on this platform")


@pytest.fixture(scope="module")
def seen(tmp_path_factory, course_root):
    """What `run_vllm_engine` saw; it starts vLLM twice, once with a scheduler of ours."""
    out = tmp_path_factory.mktemp("vllm") / "seen.json"
    script = Path(__file__).with_name("run_vllm_engine.py")
    done = subprocess.run(
        [sys.executable, str(script), str(out)], capture_output=True, text=True, timeout=500,
        cwd=course_root,
    )  # fmt: skip
    assert done.returncode == 0, f"vLLM failed:\n{done.stderr[-3000:]}"
    return json.loads(out.read_text())


@needs_vllm
def test_greedy_tokens_are_the_same_at_any_budget_turned_live(seen):
    first, *others = seen["tokens"]
    assert [len(tokens) for tokens in first] == [12, 12, 12]
    for other in others:  # rounding may part them late
        assert [tokens[:8] for tokens in other] == [tokens[:8] for tokens in first]


@needs_vllm
@pytest.mark.parametrize("name", ["record", "adapted_record"])
def test_the_record_is_complete_and_within_the_budget(seen, name):
    record = seen[name]
    assert record["label"].startswith("live (") and "vLLM 0." in record["label"]
    assert record["most"] <= record["budget"] == 64
    assert record["output"] == [9, 5, 7] and record["unfinished"] == 0
    assert record["computed"] == [200 + 8, 30 + 4, 90 + 6]  # the last token is never run
    assert sum(record["prefill"]) == 320 and record["tokens_of_last"] == 7
    assert record["ends"] == record["step_ends"] == sorted(record["ends"])
    assert max(record["blocks"]) >= 3 and record["ttft_n"] >= 3


@needs_vllm
def test_a_smaller_budget_turned_live_means_smaller_steps(seen):
    assert seen["turned"]["512"] > 2 * seen["turned"]["32"]


@needs_vllm
@pytest.mark.parametrize("name", ["cancelled", "adapted_cancelled"])
def test_a_cancelled_prompt_leaves_vllm_and_the_others_run_on(seen, name):
    run = seen[name]
    assert run["kept_ran"] and not run["dropped_ran"] and not run["dropped_finished"]
    assert run["in_vllm"] == 0 and run["free"] == run["blocks"]


@needs_vllm
def test_what_it_can_not_do_is_refused_with_value_and_range(seen):
    wanted = ("may reach 1300 tokens, max_model_len is 1024", "0..49151, got 10000000",
              "1..512, what the engine was started with, got 0", "got 5000",
              "request 12345 is not running", "0 held")  # fmt: skip
    assert all(text in said for text, said in zip(wanted, seen["refusals"], strict=True))


@needs_vllm
def test_the_analyzer_reads_vllm_as_any_other_source(seen):
    found = seen["analyzed"]
    prefill, decode = found["prefill"], found["decode"]
    assert prefill["chunk_size"] == [64, 32, 512, 32, 128]
    assert prefill["num_chunks"] == [1, 2, 1, 16, 4] and min(prefill["prefill_s"]) > 0
    assert prefill["slowest_chunk_s"][3] < prefill["prefill_s"][2]  # 32 of 512; seen: a third
    assert decode["batch_size"] == [1, 8, 1, 8] and min(decode["step_s"]) > 0
    assert found["seconds"][-1] > found["seconds"][0]  # 512 tokens beside 1; seen: 4 times
    assert found["label"].startswith("live (") and "vLLM 0." in found["label"]
    assert found["findings"].startswith("Live (") and "512 tokens" in found["findings"]
    assert found["bytes_per_value"] == {"torch.float32": 4}.get(found["dtype"], 2)
    assert min(prefill["intensity"]) > 0 and not found["left"]


@needs_vllm
def test_the_environment_is_left_as_it_was(seen):
    assert seen["environment"]


@needs_vllm
def test_our_policy_inside_vllm_gives_the_same_tokens_and_the_simulated_schedule(seen):
    assert [[t[:8] for t in run] for run in seen["adapted_tokens"]] == [
        [t[:8] for t in run] for run in seen["tokens"][:2]
    ]
    assert seen["adapted_record"]["info"]["scheduler"]["name"] == "StallFree"
    assert seen["adapted_record"]["prefill"] == simulated_prefill()


@needs_vllm
def test_a_controller_inside_vllm_turns_the_budget_and_changes_no_token(seen):
    run = seen["adaptive"]
    assert [t[:8] for t in run["tokens"]] == [t[:8] for t in seen["tokens"][0]]
    assert len(set(run["budgets"])) > 1 and 16 <= min(run["budgets"]) <= max(run["budgets"]) <= 512
    assert run["model_error"] != 1.0  # it has been told how long its steps took
    assert run["name"] == "AdaptiveChunkedPrefill" and not run["has_requests"]


def simulated_prefill() -> list[int]:
    """Prefill tokens of each iteration as our own loop decides for the same requests."""
    from coursekit.batch import Batch
    from coursekit.request import Request

    scheduler, prefill = make_scheduler("stall-free", token_budget=64, max_num_seqs=8), []
    for index, (length, outputs) in enumerate(((200, 9), (30, 5), (90, 7))):
        scheduler.add_request(Request(index, 0.0, length, outputs))
    while scheduler.has_requests:
        batch: Batch = scheduler.schedule()
        prefill.append(sum(chunk.num_tokens for chunk in batch.chunks))
        scheduler.update(batch)
    return prefill


@pytest.mark.parametrize(
    "options, message",
    [
        ({"max_token_budget": 4, "max_num_seqs": 8}, "max_token_budget must be >= max_num_seqs 8"),
        ({"max_num_seqs": 0}, "max_num_seqs must be >= 1, got 0"),
        ({"max_model_len": 0}, "max_model_len must be >= 1, got 0"),
    ],
)
def test_limits_out_of_range_are_refused_before_vllm_starts(options, message):
    with pytest.raises(ValueError, match=message):
        VllmEngine(**options)


def test_without_vllm_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="vLLM is not installed here; `make doctor`"):
        VllmEngine()
