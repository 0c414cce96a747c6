"""The `coursekit` command: one function per subcommand, listed in `COMMANDS`.

A subcommand's function adds its options to the parser it gets and returns what runs it; the first line of its
docstring is its help. Nothing is computed here: each one calls the part of the package that does the work.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import coursekit

Run = Callable[[argparse.Namespace], int]


def doctor_command(parser: argparse.ArgumentParser) -> Run:
    """Say what works on this machine and how to mend the rest (exit code 1 if the course can't run)."""

    def run(options: argparse.Namespace) -> int:
        from coursekit import doctor

        return doctor.main()

    return run


def prepare_command(parser: argparse.ArgumentParser) -> Run:
    """Prepare the default model, once (about 20 s; later calls only check it)."""

    def run(options: argparse.Namespace) -> int:
        from coursekit.models import store

        print(f"Model: {store.prepare_default_model().name} is ready.")
        return 0

    return run


def lab_command(parser: argparse.ArgumentParser) -> Run:
    """Open JupyterLab on the first notebook; further options go to JupyterLab, e.g. --no-browser or --port 8899."""
    parser.set_defaults(takes_more=True)

    def run(options: argparse.Namespace) -> int:
        command = lab_arguments(notebooks_folder(), options.more, is_root=os.getuid() == 0)
        if "--allow-root" in command:
            print("Running as root, so JupyterLab is started with --allow-root.")
        print("Opening JupyterLab; stop it with Ctrl-C.", flush=True)
        os.execv(sys.executable, [sys.executable, *command])

    return run


def simulate_command(parser: argparse.ArgumentParser) -> Run:
    """Simulate a workload on a device: prints a table of metrics, and writes the record as parquet."""
    from coursekit.schedulers import NAMES

    add = parser.add_argument
    add("--trace", required=True, type=Path, help="workload: CSV, JSONL or parquet (see coursekit.workload)")
    add("--scheduler", default="token-budget", help=", ".join(NAMES))
    add("--hardware", default="a100", help="a name in coursekit.cost.DEVICES")
    add("--model", default="llama-2-7b", help="a name in coursekit.models.SHAPES")
    add("--token-budget", type=int, default=512, help="most tokens of one iteration (default 512)")
    add("--max-num-seqs", type=int, default=128, help="most requests that run at once (default 128)")
    add("--num-blocks", type=int, help="KV blocks (default: what fits the device's memory)")
    add("--block-size", type=int, default=16, help="tokens in a KV block (default 16)")
    add("--slo-ttft", type=float, help="seconds to the first token, for goodput")
    add("--slo-itl", type=float, help="seconds for a request's worst gap, for goodput")
    add("--out", type=Path, help="write the record here (parquet)")
    add("--chrome", type=Path, help="write a trace for Perfetto or chrome://tracing here (JSON)")

    def run(options: argparse.Namespace) -> int:
        from coursekit.simulate_report import run_and_report

        return run_and_report(options)

    return run


def capacity_command(parser: argparse.ArgumentParser) -> Run:
    """Find the highest request rate that a simulated device serves under an SLO, by policy and token budget."""
    from coursekit.schedulers import NAMES

    add = parser.add_argument
    add("--trace", required=True, type=Path, help="workload, of which the lengths count (see coursekit.workload)")
    add("--scheduler", nargs="+", default=["token-budget"], help="one or more of " + ", ".join(NAMES))
    add("--token-budget", nargs="+", type=int, default=[512], help="one or more (default 512)")
    add("--hardware", default="a100", help="a name in coursekit.cost.DEVICES")
    add("--model", default="llama-2-7b", help="a name in coursekit.models.SHAPES")
    add("--rule", default="sarathi", choices=("sarathi", "vidur"), help="what must hold (default sarathi)")
    add("--slo-tbt", type=float, help="seconds that the P99 gap between tokens may be (sarathi)")
    add("--start-rate", type=float, default=1.0, help="requests per second to begin with (default 1)")
    add("--dask", metavar="ADDRESS", help="of a Dask scheduler, tcp://host:8786 (default: this machine's cores)")

    def run(options: argparse.Namespace) -> int:
        from coursekit.optimizers.capacity_report import run_and_report

        return run_and_report(options)

    return run


def profile_command(parser: argparse.ArgumentParser) -> Run:
    """Measure this device with a live engine, for simulations of it (a few minutes; can be interrupted and resumed)."""
    add = parser.add_argument
    add("--engine", default="torch", choices=("torch", "vllm"), help="which engine to measure (default torch)")
    add("--model", help="a folder, a hub id or a shape (default: the course's model)")
    add("--rounds", type=int, default=3, help="measurements of each batch, of which the median counts (default 3)")
    add("--threads", type=int, help="threads of a CPU (default: all)")
    add("--limits", type=int, nargs=3, metavar=("CHUNK", "DECODES", "CONTEXT"), help="largest batches to measure")
    add("--out", type=Path, help="the file to write (default: coursekit/profiles/DEVICE/MODEL-ENGINE.json)")

    def run(options: argparse.Namespace) -> int:
        from coursekit.cost.profiling import profile

        limits = tuple(options.limits) if options.limits else None
        out = profile(options.engine, options.model, options.out, options.rounds, limits, options.threads)
        print(f"Profile: {out}")
        return 0

    return run


def loadtest_command(parser: argparse.ArgumentParser) -> Run:
    """Load a running server with concurrent streaming requests: latencies, failures, the client's own lag."""
    add = parser.add_argument
    add("--url", required=True, help="of the server, http://127.0.0.1:8000 (the key, if any, in OPENAI_API_KEY)")
    add("--trace", type=Path, help="workload: CSV, JSONL or parquet (see coursekit.workload)")
    add("--requests", type=int, metavar="N", help="instead of a trace: so many requests of --lengths")
    add("--lengths", nargs="+", default=["1000:16", "50:32"], metavar="PROMPT:OUTPUT",
        help="tokens of each kind, equally many of each (default 1000:16 50:32)")  # fmt: skip
    add("--rate", type=float, help="open loop: Poisson, requests per second; inf: all at once (default: the trace's)")
    add("--users", type=int, help="closed loop: so many users, each waiting for its answer")
    add("--think", type=float, default=0.0, help="seconds from a user's answer to its next request (default 0)")
    add("--model", help="as the server names it (default: the first that it names)")
    add("--device", default="", help="what the server runs on, for the record's label")
    add("--seed", type=int, help="draws order, arrivals and prompts (default: prompts differ in each run)")
    add("--timeout", type=float, default=300.0, help="seconds that a request may take (default 300)")
    add("--deadline", type=float, help="seconds that the whole run may take (default: no less than it needs)")
    add("--send-priority", action="store_true", help="send the priorities too (the server must use them)")
    add("--out", type=Path, help="write the record here (parquet)")
    add("--json", type=Path, help="write the summary here")

    def run(options: argparse.Namespace) -> int:
        from coursekit.loadtest.report import run_and_report

        return run_and_report(options)

    return run


def config_command(parser: argparse.ArgumentParser) -> Run:
    """Configure vLLM for a kind of workload, or for a trace, an SLO and a device; with reasons, checked by vLLM itself."""
    add = parser.add_argument
    add("preset", nargs="?", metavar="PRESET", help="long_context_qa, mixed_interactive or batch_processing")
    add("--format", choices=("python", "cli", "yaml"), help="write it for LLM(...), for a shell, or for `vllm serve --config`")
    add("--model", help="folder, hub id or name of a shape (default: the course's model; with --recommend llama-2-7b)")
    add("--max-model-len", type=int, help="most tokens of one request (default: the preset's)")
    add("--check", action="store_true", help="ask the installed vLLM, 5 to 10 s (exit code 1 if it refuses)")
    add("--recommend", action="store_true", help="find the settings by simulation, for these:")
    add("--trace", type=Path, help="workload: CSV, JSONL or parquet (see coursekit.workload)")
    add("--slo-itl", type=float, help="seconds that the P99 gap between tokens may be")
    add("--slo-ttft", type=float, help="seconds that the P99 to the first token may be")
    add("--hardware", default="a100", help="a name in coursekit.cost.DEVICES, or a recorded profile (default a100)")
    add("--scheduler", default="token-budget", help="vLLM's token-budget or priority-token-budget; stall-free or priority-aware")
    add("--objective", default="throughput", help="throughput, goodput or capacity (default throughput)")
    add("--num-blocks", type=int, help="KV blocks of 16 tokens (default: what fits the device's memory)")

    def run(options: argparse.Namespace) -> int:
        from coursekit.deploy.config_report import run_and_report

        return run_and_report(options)

    return run


def monitor_command(parser: argparse.ArgumentParser) -> Run:
    """Watch a running server's /metrics: what it does, which alerts stand, which setting to turn and why."""
    add = parser.add_argument
    add("--url", required=True, help="of the server, http://127.0.0.1:8000")
    add("--interval", type=float, default=10.0, help="seconds between two looks (default 10)")
    add("--window", type=float, default=300.0, help="seconds that a report covers (default 300)")
    add("--slo-itl", type=float, default=0.2, help="seconds that the P99 gap between tokens may be (default 0.2)")
    add("--slo-ttft", type=float, default=2.5, help="seconds that the P99 to the first token may be (default 2.5)")
    add("--token-budget", type=int, help="the server's max_num_batched_tokens, which /metrics does not tell")
    add("--max-num-seqs", type=int, help="the server's max_num_seqs")
    add("--cost", metavar="PROFILE", help="a recorded profile of the server's device and model, for numbers to turn to")
    add("--hardware", help="instead of a profile: a name in coursekit.cost.DEVICES")
    add("--model", help="and a name in coursekit.models.SHAPES")
    add("--once", action="store_true", help="report after one interval and end (exit code 1 if it does not answer)")

    def run(options: argparse.Namespace) -> int:
        from coursekit.monitor.watch import run_and_report

        return run_and_report(options)

    return run


def serve_command(parser: argparse.ArgumentParser) -> Run:
    """Serve a preset with vLLM, on loopback and in the foreground; Ctrl-C stops it."""
    add = parser.add_argument
    add("preset", metavar="PRESET", help="long_context_qa, mixed_interactive or batch_processing")
    add("--port", type=int, help="default: a free one")
    add("--host", default="127.0.0.1", help="beyond loopback an API key is needed (default 127.0.0.1)")
    add("--api-key", help="that clients must show; better in VLLM_API_KEY, which others can't see")
    add("--model", help="a folder or a hub id (default: the course's model)")
    add("--token-budget", type=int, metavar="N", help="most tokens of one iteration (default: the preset's)")
    add("--max-model-len", type=int, metavar="N", help="most tokens of one request (default: the preset's)")
    add("--adaptive", action="store_true", help="choose the budget in each iteration, up to --token-budget (default 2048)")
    add("--itl-target", type=float, metavar="S", help="seconds between tokens that --adaptive is to hold, e.g. 0.2")
    add("--timeout", type=float, default=300.0, help="seconds that it may take to start (default 300)")
    add("--dry-run", action="store_true", help="print the command and start nothing")

    def run(options: argparse.Namespace) -> int:
        from coursekit.deploy.serve_report import run_and_serve

        return run_and_serve(options)

    return run


COMMANDS: dict[str, Callable[[argparse.ArgumentParser], Run]] = {
    "doctor": doctor_command,
    "prepare": prepare_command,
    "lab": lab_command,
    "simulate": simulate_command,
    "capacity": capacity_command,
    "profile": profile_command,
    "loadtest": loadtest_command,
    "config": config_command,
    "serve": serve_command,
    "monitor": monitor_command,
}


def notebooks_folder() -> Path:
    """The course's notebooks. Raises RuntimeError when the package is not installed from the course folder."""
    folder = Path(coursekit.__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        raise RuntimeError(
            "there is no folder 'notebooks' beside the coursekit package; "
            "install it from a clone of the course: pip install -e ."
        )
    return folder


def lab_arguments(notebooks: Path, more: list[str], is_root: bool) -> list[str]:
    """Arguments for Python that start JupyterLab in `notebooks`, opened on the first one (01_…)."""
    first = next(iter(sorted(notebooks.glob("01_*.ipynb"))), None)
    # Warnings only: what stays on the screen is the address.
    arguments = ["-m", "jupyterlab", f"--ServerApp.root_dir={notebooks}", "--ServerApp.log_level=WARN"]
    if first is not None:
        # As the default address and not as a file argument, so that the printed address leads there as well.
        arguments.append(f"--LabApp.default_url=/lab/tree/{first.name}")
    if is_root and "--allow-root" not in more:
        arguments.append("--allow-root")
    return arguments + more


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(prog="coursekit", description="The companion of Chunked Prefill, Hands On.")
    parser.add_argument("--version", action="version", version=f"coursekit {coursekit.__version__}")
    parser.set_defaults(takes_more=False)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        says = command.__doc__.splitlines()[0]
        subparser = subparsers.add_parser(name, help=says, description=says)
        subparser.set_defaults(run=command(subparser))
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's) and return the exit code.

    An expected error (OSError, ValueError, RuntimeError) is one line on stderr and exit code 1; a wrong command line is 2.
    """
    parser = build_parser()
    options, more = parser.parse_known_args(argv)
    if more and not options.takes_more:
        parser.error(f"unknown arguments: {' '.join(more)}; see: coursekit {options.command} --help")
    options.more = more
    try:
        return options.run(options)
    except (OSError, ValueError, RuntimeError) as error:
        print(f"coursekit: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("coursekit: stopped", file=sys.stderr)
        return 130
