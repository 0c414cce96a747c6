"""`coursekit config`: formats on stdout, what is said about them on stderr, exit codes."""

import importlib.util

import pytest
import yaml

from coursekit import cli
from coursekit.deploy.presets import get_chunked_prefill_config


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "load.csv"
    rows = [f"{i / 5},{200 + 40 * (i % 9)},{10 + i % 7}" for i in range(40)]
    path.write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]) + "\n")
    return str(path)


def test_a_preset_is_explained(capsys):
    assert cli.main(["config", "long_context_qa"]) == 0
    assert capsys.readouterr().out == get_chunked_prefill_config("long_context_qa").explain() + "\n"


@pytest.mark.parametrize(("to", "part"), [
    ("python", "llm = LLM("), ("cli", "--max-num-batched-tokens 512"), ("yaml", "max-num-batched-tokens: 512"),
])  # fmt: skip
def test_a_format_is_all_that_stdout_gets(capsys, to, part):
    assert cli.main(["config", "mixed_interactive", "--format", to, "--model", "llama-2-7b"]) == 0
    out, err = capsys.readouterr()
    assert part in out and not err


def test_yaml_on_stdout_can_be_a_file(capsys):
    assert cli.main(["config", "mixed_interactive", "--format", "yaml", "--max-model-len", "500"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["max-model-len"] == 500


def test_the_check_is_vllms(capsys):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed here")
    assert cli.main(["config", "mixed_interactive", "--format", "yaml", "--check"]) == 0
    out, err = capsys.readouterr()
    assert "accepted by vLLM" in err and "accepted by vLLM" not in out


def test_a_check_that_could_not_be_made_is_no_success(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else find(name))
    assert cli.main(["config", "mixed_interactive", "--check"]) == 1
    assert "not validated: vLLM is not installed here" in capsys.readouterr().out


def test_a_recommendation_for_a_trace(capsys, trace):
    assert cli.main(["config", "--recommend", "--trace", trace, "--slo-itl", "0.05"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("recommended: Most throughput") and "simulated (NVIDIA A100" in out


def test_without_one_it_says_what_could_be_kept(capsys, trace):
    command = ["config", "--recommend", "--trace", trace, "--slo-itl", "0.001", "--format", "yaml"]
    assert cli.main(command) == 1
    out, err = capsys.readouterr()
    assert not out and "Nearest SLO that can be kept" in err


@pytest.mark.parametrize(("words", "says"), [
    (["nope"], "unknown workload 'nope'; known: long_context_qa"),
    ([], "name a preset"),
    (["mixed_interactive", "--recommend"], "not both"),
    (["--recommend", "--slo-itl", "1"], "needs a workload and a limit"),
    (["--recommend", "--trace", "x.csv"], "needs a workload and a limit"),
    (["mixed_interactive", "--slo-itl", "1"], "--slo-itl would change nothing here"),
    (["--recommend", "--max-model-len", "9"], "--max-model-len would change nothing here"),
])  # fmt: skip
def test_a_command_that_does_not_fit_together_is_refused(capsys, words, says):
    assert cli.main(["config", *words]) == 1
    assert says in capsys.readouterr().err
