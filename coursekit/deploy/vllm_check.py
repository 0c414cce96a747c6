"""The child of `validate`: vLLM's own checks on configurations, JSON on stdin, JSON on stdout.

It builds `EngineArgs` and from it the whole `VllmConfig`, which runs all of vLLM's checks, and reads
the written forms back with vLLM's parsers. No engine is started and no weights are read. Written
for vLLM 0.32, which is imported by the first check.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

IN_FORCE = {
    "scheduler_config": (
        "enable_chunked_prefill", "max_num_batched_tokens", "max_num_seqs",
        "long_prefill_token_threshold", "async_scheduling",
    ),
    "model_config": ("max_model_len",), "cache_config": ("enable_prefix_caching",),
}  # fmt: skip


def main() -> None:
    """Answer the cases on stdin, one JSON list, with one on stdout."""
    answers_to = os.dup(1)
    os.dup2(2, 1)  # what vLLM prints goes to stderr
    answers = [_check(case) for case in json.load(sys.stdin)]
    with os.fdopen(answers_to, "w") as out:
        json.dump(answers, out)


def _check(case: dict) -> dict:
    """The fields of a `Verdict`, but for the remedy."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    args = case["engine_args"]
    answer: dict = {"vllm": vllm.__version__, "accepted": True}
    try:
        asked = EngineArgs(model=case["model"], **args)
        config = asked.create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (ValueError, TypeError, NotImplementedError) as error:
        return answer | {"accepted": False, "message": _own_words(error)}
    except Exception as error:  # no device, no model, no network: nothing is said of the settings
        return answer | {"accepted": None, "message": f"{type(error).__name__}: {_own_words(error)}"}
    in_force = answer["in_force"] = {
        name: getattr(getattr(config, part), name)
        for part, names in IN_FORCE.items() for name in names
    }  # fmt: skip
    answer["changed"] = {
        name: [args[name], value]
        for name, value in in_force.items() if args.get(name) not in (None, value)
    }  # fmt: skip
    answer["misread"] = _read_back(case)
    return answer


def _own_words(error: Exception) -> str:
    """vLLM's message without what pydantic puts around it."""
    if not hasattr(error, "errors"):
        return str(error)
    parts = []
    for each in error.errors():
        where = ".".join(str(part) for part in each["loc"])
        parts.append(f"{where}: {each['msg']}" if where else each["msg"])
    return "; ".join(parts).replace("Value error, ", "")


def _read_back(case: dict) -> dict[str, dict]:
    """For each written form, what vLLM's parser reads differently from the `EngineArgs` fields."""
    serve, module = _serve_parser(), _module_parser()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_text(case["yaml"])
        yaml = ["serve", case["model"]], ["serve", "--config", str(path)]
        module_words = case["commands"]["server module"]
        serve_words = [["serve", *words] for words in case["commands"]["vllm serve"]]
        ways = {
            "vllm serve": (serve, *serve_words), "server module": (module, *module_words),
            "yaml": (serve, *yaml),
        }  # fmt: skip
        return {name: _differences(*way, case["engine_args"]) for name, way in ways.items()}


def _differences(parser, bare: list[str], written: list[str], args: dict) -> dict:
    """Fields in which the written form is not the bare one with `args` in it.

    Beside the bare command line, as its defaults are not all those of `EngineArgs`.
    """
    try:
        expected = dataclasses.replace(_parsed(parser, bare), **args)
        found = _parsed(parser, written)
    except SystemExit:
        return {"error": "vLLM's parser does not take it"}
    pairs = {
        each.name: [getattr(expected, each.name), getattr(found, each.name)]
        for each in dataclasses.fields(expected)
    }
    return {name: [str(part) for part in pair] for name, pair in pairs.items() if pair[0] != pair[1]}


def _parsed(parser, arguments: list[str]):
    from vllm.engine.arg_utils import EngineArgs

    options = parser.parse_args(arguments)
    options.model = options.model_tag or options.model  # as vllm/entrypoints/cli/serve.py does
    return EngineArgs.from_cli_args(options)


def _serve_parser():
    """The parser of `vllm serve`, with the subcommand below it as in vllm/entrypoints/cli/main.py."""
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers())
    return parser


def _module_parser():
    """The parser of `python -m vllm.entrypoints.openai.api_server`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())
