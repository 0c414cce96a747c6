"""What `coursekit config` prints: a preset or a recommendation, in a format, and vLLM's word on it."""

from __future__ import annotations

import argparse
import sys

from coursekit.deploy.configure import render
from coursekit.deploy.presets import PRESETS, get_chunked_prefill_config
from coursekit.deploy.recommender import recommend
from coursekit.deploy.settings import ChunkedPrefillConfig
from coursekit.deploy.validate import validate_config
from coursekit.optimizers import RunSlo
from coursekit.workload import read_workload


def run_and_report(options: argparse.Namespace) -> int:
    """Print what the command line asks for; 1 if there is no configuration or vLLM did not take it.

    What is said about it goes to stderr where a format is asked for, so that stdout can be a file.
    """
    if bool(options.preset) == options.recommend:
        raise ValueError(
            f"name a preset ({', '.join(PRESETS)}) or ask to --recommend one from a --trace, not both"
        )
    _refuse_what_would_be_ignored(options)
    config = _recommended(options) if options.recommend else _preset(options)
    if config is None:
        return 1
    print(render(config, options.format) if options.format else config.explain(), end="")
    if not options.format:
        print()
    if not options.check:
        return 0
    verdict = validate_config(config)
    print(verdict, file=sys.stderr if options.format else sys.stdout)
    return int(not verdict.ok)


def _refuse_what_would_be_ignored(options: argparse.Namespace) -> None:
    given = {
        "--trace": options.trace, "--slo-itl": options.slo_itl, "--slo-ttft": options.slo_ttft,
        "--num-blocks": options.num_blocks,
    }  # fmt: skip
    if options.recommend:
        given = {"--max-model-len": options.max_model_len}
    unused = [name for name, value in given.items() if value is not None]
    if unused:
        where = "for a preset" if options.recommend else "for --recommend"
        raise ValueError(f"{', '.join(unused)} would change nothing here, being {where}: leave it out")


def _preset(options: argparse.Namespace) -> ChunkedPrefillConfig:
    return get_chunked_prefill_config(options.preset, options.model, options.max_model_len)


def _recommended(options: argparse.Namespace) -> ChunkedPrefillConfig | None:
    """The configuration; None, with the reason printed, where nothing keeps the SLO."""
    if options.trace is None or (options.slo_itl is None and options.slo_ttft is None):
        raise ValueError(
            "--recommend needs a workload and a limit: --trace FILE, and --slo-itl or --slo-ttft SECONDS"
        )
    found = recommend(
        read_workload(options.trace), RunSlo(itl_s=options.slo_itl, ttft_s=options.slo_ttft),
        options.hardware, options.model or "llama-2-7b", scheduler=options.scheduler,
        objective=options.objective, num_blocks=options.num_blocks,
    )  # fmt: skip
    if not found.feasible:
        print(found.explain(), file=sys.stderr)
    return found.config
