"""What `coursekit serve` does: runs a server in the foreground, until Ctrl-C or its own end."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from time import sleep

from coursekit.deploy.command import as_shell
from coursekit.deploy.failure import failed
from coursekit.deploy.plan import ServerPlan, make_plan
from coursekit.deploy.process import free_port
from coursekit.deploy.server import RunningServer, deploy_chunked_prefill


def run_and_serve(options: argparse.Namespace) -> int:
    """Start the server and stay until it is stopped (exit code 0) or ends by itself (1).

    One of the same settings that runs already is named, and left as it is.
    """
    if options.adaptive != (options.itl_target is not None):
        raise ValueError(
            "--adaptive needs --itl-target SECONDS, the gap between tokens to hold, and the other "
            "way round: --adaptive --itl-target 0.2"
        )
    given = {
        "model": options.model, "host": options.host, "api_key": options.api_key,
        "adaptive": options.itl_target, "token_budget": options.token_budget,
        "max_model_len": options.max_model_len,
    }  # fmt: skip
    if options.dry_run:
        print(_dry_run(make_plan(options.preset, **given), options.port))
        return 0
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    where = {"port": options.port, "timeout_s": options.timeout}
    with deploy_chunked_prefill(options.preset, **where, **given) as server:
        print(_how_to_use(server))
        if not server.started:
            print("It was started elsewhere and stays as it is.")
            return 0
        print(f"Its log: {server.log_file}\nStop it with Ctrl-C.", flush=True)
        return _stay(server)


def _stay(server: RunningServer) -> int:
    try:
        while server.is_running:
            sleep(0.5)
    except KeyboardInterrupt:
        print("Stopping ...", flush=True)
        server.stop()
        print("Stopped.", flush=True)
        return 0
    raise failed("The server ended by itself", server.log_file)


def _dry_run(plan: ServerPlan, port: int | None) -> str:
    if plan.note:
        print(plan.note, file=sys.stderr)
    return as_shell(plan.command(port or free_port(plan.host)), plan.environment())


def _how_to_use(server: RunningServer) -> str:
    """The address, and a request to try."""
    body = {"model": server.model, "prompt": "Chunked prefill is", "max_tokens": 16, "stream": True}
    key = '  -H "Authorization: Bearer $VLLM_API_KEY" \\\n' if server.api_key else ""
    return (
        f"Base URL: {server.base_url}/v1\nTry:\n"
        f"  curl -N {server.base_url}/v1/completions \\\n"
        f"{key}"
        f"  -H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


def _as_ctrl_c(*_) -> None:
    raise KeyboardInterrupt
