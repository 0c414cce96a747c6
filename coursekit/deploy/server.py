"""A real vLLM server for the course: started, waited for, found again, stopped.

    with deploy_chunked_prefill("mixed_interactive") as server:
        print(server.base_url, server.model)

It listens on loopback. It ends with the program that started it, however that ends, and with
everything it has started itself (see `guardian`). A server of the same settings that runs already,
of this program or of another one of this user, is used instead of a second one; only who started a
server stops it. Different settings get a server of their own, on a port of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

from coursekit.deploy import registry
from coursekit.deploy.failure import ServerFailed, failed, last_lines, stage, is_address_taken
from coursekit.deploy.plan import LOOPBACK, ServerPlan, make_plan
from coursekit.deploy.process import ServerProcess, free_port, identity, is_free, started_here
from coursekit.deploy.settings import ChunkedPrefillConfig

TIMEOUT_S = 300.0
TELL_EVERY_S = 10.0
NUM_TRIES = 3  # with other ports, if somebody takes the one that was free


def deploy_chunked_prefill(
    preset: str | ChunkedPrefillConfig = "mixed_interactive", *, model: str | None = None,
    port: int | None = None, host: str = LOOPBACK, api_key: str | None = None,
    adaptive: float | dict | None = None, token_budget: int | None = None,
    max_model_len: int | None = None, timeout_s: float = TIMEOUT_S,
    log: Callable[[str], None] = print,
) -> RunningServer:  # fmt: skip
    """Start a vLLM server, or find the one of these settings that runs; it is healthy then.

    preset: a name in PRESETS, or a configuration such as `recommend`'s. model: folder or hub id,
    the course's if None. port: a free one if None. host: beyond loopback only with api_key or
    VLLM_API_KEY. adaptive: the gap between tokens, in seconds, for the adaptive scheduler to hold,
    or its options (see `AdaptiveCoursekitScheduler`). token_budget: in place of the preset's, with
    `adaptive` the most. log: gets a line of progress now and then.

    Raises ValueError for bad arguments; ServerFailed with the log's last lines and a remedy if the
    server ends or is not healthy in `timeout_s`; RuntimeError without vLLM.
    """
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"port must be in 1..65535, got {port}: leave it out for a free one")
    plan = make_plan(preset, model, host, api_key, adaptive, token_budget, max_model_len)
    with registry.one_start_at_a_time(plan.key(), timeout_s, log):
        others = registry.entries()
        for entry in others:
            if entry.key == plan.key() and port in (None, entry.port):
                log(f"Using the server that runs at {_who(entry)}.")
                return RunningServer(entry, plan.config, plan.api_key)
        for entry in others:
            log(f"Also running, and sharing this machine: {_who(entry)}.")
        if plan.note:
            log(plan.note)
        return _start(plan, port, timeout_s, log)


class RunningServer:
    """A server that is up. As a context manager it leaves things as it found them.

    base_url: "http://127.0.0.1:PORT", to which clients add /v1/…; model: its name for clients;
    pid: of the server's main process (None if it is not ours); config: what it was started with
    (None if unknown); api_key: what clients must show; started: whether this object started it;
    log_file: where its log is (None for an attached one).
    """

    def __init__(
        self, entry: registry.Entry, config: ChunkedPrefillConfig | None = None,
        api_key: str | None = None, started: bool = False,
    ):  # fmt: skip
        self.base_url, self.model, self.pid = entry.base_url, entry.model, entry.pid or None
        self.config, self.api_key, self.started = config, api_key, started
        self.log_file = Path(entry.log) if entry.log else None
        self._entry = entry

    @classmethod
    def attach(cls, base_url: str, api_key: str | None = None) -> RunningServer:
        """For a server that runs already and that nobody here has started; it is never stopped.

        Raises ValueError if none answers there or it refuses the key.
        """
        base_url = base_url.rstrip("/").removesuffix("/v1")
        try:
            models = json.loads(registry.get(f"{base_url}/v1/models", api_key))["data"]
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"no OpenAI server answers at {base_url} ({error}): is it up, and the key right?"
            ) from None
        entry = registry.Entry("", base_url, 0, models[0]["id"], "attached", 0, 0.0, "")
        return cls(entry, None, api_key)

    @property
    def is_running(self) -> bool:
        """Whether its process lives; for an attached one whether it answers."""
        if self.pid is None:
            return registry.is_healthy(self.base_url)
        return identity(self.pid) == self._entry.began

    def stop(self) -> bool:
        """Stop it with all its children, if this process has started it; returns whether it did.

        A second time, and for a server of another process, it does nothing.
        """
        process = started_here(self.pid) if self.pid else None
        if process is None:
            return False
        process.stop()
        self._entry.path.unlink(missing_ok=True)
        return True

    def log(self, num_lines: int = 40) -> str:
        """The last lines that the server wrote; "" for an attached one."""
        return last_lines(self.log_file, num_lines) if self.log_file else ""

    def metrics_text(self) -> str:
        """What its /metrics says now, in Prometheus's text format. Raises OSError if it is gone."""
        return registry.get(f"{self.base_url}/metrics", self.api_key)

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(self, *_) -> None:
        if self.started:
            self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running else "stopped"
        return f"RunningServer({self.base_url}, {self.model}, {self._entry.name}, {state})"


def _who(entry: registry.Entry) -> str:
    return f"{entry.base_url} ({entry.name}, pid {entry.pid})"


def _start(plan: ServerPlan, port: int | None, timeout_s: float, log) -> RunningServer:
    """Start on `port`, or on free ones until nobody else takes it."""
    if port is not None and not is_free(plan.host, port):
        raise ValueError(
            f"port {port} of {plan.host} is taken: choose another, or leave it out for a free one"
        )
    for tries_left in reversed(range(NUM_TRIES)):
        chosen = port or free_port(plan.host)
        file = registry.new_log(plan.key(), chosen)
        process = ServerProcess(plan.command(chosen), file, plan.environment())
        try:
            _wait_for_health(plan, process, chosen, timeout_s, log)
            return _known(plan, process, chosen)
        except ServerFailed:
            process.stop()
            if port is not None or not tries_left or not is_address_taken(file):
                raise
            log(f"Somebody took port {chosen}; trying another.")
        except BaseException:  # Ctrl-C included
            process.stop()
            raise


def _wait_for_health(plan, process: ServerProcess, port: int, timeout_s: float, log) -> None:
    """Returns when the server itself, not another one on its port, says that it is well."""
    url, start_s = plan.base_url(port), monotonic()
    tell_at_s = start_s + TELL_EVERY_S
    what = f"{plan.model} ({plan.config.name})"
    log(f"Starting vLLM with {what} at {url}: about a minute on a small CPU ...")
    while not (process.listens(port) and registry.is_healthy(url)):
        now_s = monotonic()
        if process.exit_code is not None:
            code = process.exit_code
            raise failed(f"vLLM ended with exit code {code} while it started", process.log)
        if now_s - start_s > timeout_s:
            raise failed(
                f"vLLM was not healthy within {timeout_s:g} s", process.log,
                "raise timeout_s, and see that nothing else keeps this machine busy",
            )  # fmt: skip
        if now_s >= tell_at_s:
            log(f"  {now_s - start_s:3.0f} s: {stage(process.log)}")
            tell_at_s += TELL_EVERY_S
        sleep(0.5)
    log(f"Ready after {monotonic() - start_s:.0f} s: {url}")


def _known(plan: ServerPlan, process: ServerProcess, port: int) -> RunningServer:
    entry = registry.Entry(
        plan.key(), plan.base_url(port), port, plan.model, plan.config.name, process.pid,
        identity(process.pid) or 0.0, str(process.log),
    )  # fmt: skip
    registry.save(entry)
    return RunningServer(entry, plan.config, plan.api_key, started=True)
