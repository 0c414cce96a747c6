"""The three presets: complete, traceable, fitted to the model; what they cite is there and holds."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coursekit import get_chunked_prefill_config
from coursekit.deploy.presets import PRESETS
from coursekit.models import SHAPES
from coursekit.simulate import num_blocks_that_fit

NAMES = tuple(PRESETS)
COMPLETE = {
    "enable_chunked_prefill", "max_num_batched_tokens", "max_num_seqs",
    "long_prefill_token_threshold", "max_model_len", "enable_prefix_caching",
}  # fmt: skip


def sources(*names):
    """What the presets cite, one by one."""
    configs = [get_chunked_prefill_config(name, model) for name in names for model in SHAPES]
    return sorted({part for c in configs for s in c.settings for part in s.source.split("; ")})


def test_the_names_are_the_modules():
    assert NAMES == ("long_context_qa", "mixed_interactive", "batch_processing")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_reason_and_a_source(name):
    config = get_chunked_prefill_config(name)
    assert config.name == name and len(config.rationale) > 20
    assert set(config.engine_args) == COMPLETE
    assert all(len(s.reason) > 10 and len(s.source) > 10 for s in config.settings)
    assert all(f"{s.field} = {s.value}" in config.explain() for s in config.settings)


def test_an_unknown_workload_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'chat'; known: long_context_qa, mixed_interactive, batch_proc"):
        get_chunked_prefill_config("chat")


def test_a_configuration_can_not_be_changed():
    config = get_chunked_prefill_config("mixed_interactive")
    with pytest.raises(FrozenInstanceError):
        config.name = "other"
    config.engine_args["max_num_seqs"] = 1
    assert config.engine_args["max_num_seqs"] == 128
    with pytest.raises(KeyError):
        config["block_size"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("model", "context"), [(None, 8192), ("llama-2-7b", 4096)])
def test_a_preset_asks_for_no_more_context_than_the_model_has(name, model, context):
    assert get_chunked_prefill_config(name, model).engine_args["max_model_len"] == context


def test_a_model_of_128k_is_limited_and_the_reason_says_so():
    length = get_chunked_prefill_config("long_context_qa", "llama-3.1-8b")["max_model_len"]
    assert length.value == 32768 and "128K" in length.reason


def test_a_folder_says_its_own_context(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 300}))
    args = get_chunked_prefill_config("mixed_interactive", str(tmp_path)).engine_args
    assert args["max_model_len"] == 300
    assert args["long_prefill_token_threshold"] == 300  # vLLM refuses a higher one


@pytest.mark.parametrize("length", [0, -1, 8193])
def test_a_length_that_the_model_has_not_got_is_refused(length):
    with pytest.raises(ValueError, match=f"max_model_len must be .*got {length}: "):
        get_chunked_prefill_config("mixed_interactive", None, length)


@given(st.sampled_from(NAMES), st.sampled_from(sorted(SHAPES)), st.integers(1, 4096))
def test_no_length_breaks_vllms_rules(name, model, length):
    args = get_chunked_prefill_config(name, model, length).engine_args
    assert args["max_model_len"] == length
    assert args["max_num_seqs"] <= args["max_num_batched_tokens"]
    assert args["long_prefill_token_threshold"] <= length
    assert args["enable_chunked_prefill"] or args["max_num_batched_tokens"] >= length


def test_every_cited_benchmark_row_is_there_and_holds(course_root):
    cited = [source for source in sources(*NAMES) if source.startswith("benchmarks/")]
    assert len(cited) >= 5
    for source in cited:
        path, what = source.split(": ", 1)
        rows = json.loads((course_root / path).read_text())["rows"]
        assert {row["what"]: row["holds"] for row in rows}[what] is True


def test_every_cited_file_of_vllm_has_what_is_cited():
    spec = importlib.util.find_spec("vllm")
    if spec is None:
        pytest.skip("vLLM is not installed here")
    cited = [s for s in sources(*NAMES) if re.match(r"(vLLM, )?vllm/", s)]
    assert cited
    for source in cited:
        path, *names = re.findall(r"vllm/[\w/]+\.py|\b[a-z]+_[a-z_]+\b", source)
        text = Path(spec.origin).parents[1].joinpath(path).read_text()
        assert all(name in text for name in names), source


def test_80_gb_hold_about_as_many_long_requests_as_the_preset_says():
    held = num_blocks_that_fit("a100", "llama-3.1-8b", 16) * 16 / 8192
    assert held == pytest.approx(get_chunked_prefill_config("long_context_qa")["max_num_seqs"].value, rel=0.15)


def test_a_preset_loads_neither_torch_nor_vllm():
    code = (
        "import sys, coursekit; coursekit.get_chunked_prefill_config('mixed_interactive').explain(); "
        "print(sorted({'torch', 'vllm', 'matplotlib'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
