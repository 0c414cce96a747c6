"""A live engine at arm's length: it runs in a child process, and this is its handle.

Commands return at once; what they lead to comes back as events, which a thread collects. The
child ends with this process, whatever ends it, and gives the device back with it.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable

from coursekit.cost.calibrated import CalibratedCost, Profile
from coursekit.device import num_cores

START_S = 180.0  # vLLM takes 20 to 60 s
CLOSE_S = 5.0
LOG_LINES = 15


class LiveSession:
    """A running `coursekit.live.worker`.

    kind: "torch" or "vllm"; options: of `worker.build_engine`. On a CPU the engine leaves one
    core to the notebook and the browser, unless num_threads says otherwise. on_event: called
    with each event, a dict, on the reading thread.
    label, max_token_budget: of the engine; decode_step_s, contention: median decode step of one
    stream, in seconds and over the fastest one; cost: fitted to a few iterations at the start.
    Raises RuntimeError, with the log's end, if the engine does not come up within START_S.
    """

    def __init__(self, kind: str, on_event: Callable[[dict], None] | None = None, **options):
        self.events: list[dict] = []
        self.error = ""
        self._on_event = on_event
        self._changed = threading.Condition()
        self._log = tempfile.TemporaryFile("w+", errors="replace")
        options.setdefault("num_threads", max(1, num_cores() - 1))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "coursekit.live.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            start_new_session=True,  # an interrupt of the kernel is not meant for the engine
            env=_environment(options["num_threads"]),
        )  # fmt: skip
        self._finalizer = weakref.finalize(self, _end, self._process)
        atexit.register(self._finalizer)
        threading.Thread(target=self._read, name="live session", daemon=True).start()
        try:
            self.send("start", kind=kind, **options)
            ready = self.wait_for("ready", START_S)
        except BaseException:
            self.close()
            raise
        self.label: str = ready["label"]
        self.pid: int = ready["pid"]
        self.max_token_budget: int = ready["max_token_budget"]
        self.decode_step_s: float = ready["decode_step_s"]
        self.contention: float = ready["contention"]
        self.cost = CalibratedCost(Profile.from_dict(ready["profile"]))

    @property
    def is_alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    def send(self, do: str, **arguments) -> None:
        """Give a command, one of the worker's. Raises RuntimeError if the child is gone."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise RuntimeError(f"the engine's process is gone; its log ends:\n{self.log()}") from error

    def wait_for(self, event: str, timeout_s: float, after: int = 0) -> dict:
        """The first event of this kind from place `after` on in `events`.

        Raises ValueError if the engine refused a command since then, and RuntimeError if it
        failed, ended, or takes longer than timeout_s.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for found in self.events[after:]:
                    if found["event"] == event:
                        return found
                    if found["event"] == "refused":
                        raise ValueError(found["message"])
                if self.error:
                    raise RuntimeError(self.error)
                if not self.is_alive:
                    raise RuntimeError(f"the engine's process ended; its log ends:\n{self.log()}")
                if not self._changed.wait(min(0.5, max(0.0, deadline - time.monotonic()))):
                    if time.monotonic() >= deadline:
                        raise RuntimeError(
                            f"no {event!r} from the engine in {timeout_s:g} s; its log ends:\n"
                            f"{self.log()}"
                        )

    def log(self) -> str:
        """The last lines that the child has written to its log."""
        self._log.flush()
        size = os.fstat(self._log.fileno()).st_size
        end = os.pread(self._log.fileno(), 8000, max(0, size - 8000)).decode(errors="replace")
        return "\n".join(end.splitlines()[-LOG_LINES:])

    def close(self) -> None:
        """End the child and wait until it is gone. Harmless when repeated."""
        self._finalizer()
        atexit.unregister(self._finalizer)

    def _read(self) -> None:
        for line in self._process.stdout:
            event = json.loads(line)
            with self._changed:
                self.events.append(event)
                if event["event"] == "error":
                    self.error = event["message"]
                self._changed.notify_all()
            if self._on_event is not None:
                self._on_event(event)
        with self._changed:
            self._changed.notify_all()


def _environment(num_threads: int | None) -> dict[str, str]:
    settings = {} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)}
    return {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen) -> None:
    """Close the child's input, upon which it ends; if it does not, kill it."""
    try:
        process.stdin.close()
    except OSError:
        pass  # it is gone already
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
