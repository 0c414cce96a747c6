"""A server as a process: started under a guardian, looked at, stopped with all that it has started.

It knows nothing of vLLM: the tests start small servers with it too.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil

from coursekit.deploy.guardian import CHILDREN_GRACE_S, GRACE_S

_started: dict[int, ServerProcess] = {}  # by the server's pid; those that run under this process


class ServerProcess:
    """A command that runs until `stop`, or until this process ends.

    pid: of the server, which leads a process group of its own; guardian: see `guardian`.
    """

    def __init__(self, command: list[str], log: Path, environment: dict[str, str] | None = None):
        self.log, self._owner = log, os.getpid()
        with log.open("ab") as errors:
            self.guardian = subprocess.Popen(
                [sys.executable, "-m", "coursekit.deploy.guardian", str(log), *command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=os.environ | (environment or {}), start_new_session=True,
            )  # fmt: skip
        try:
            said = self.guardian.stdout.readline()
            if not said:
                why = log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise RuntimeError(f"the server could not be started: {why}")
        except BaseException:  # Ctrl-C included
            self._end_guardian()
            raise
        self.pid = int(said)
        _started[self.pid] = self

    @property
    def exit_code(self) -> int | None:
        """The server's; None while it runs."""
        return self.guardian.poll()

    def listens(self, port: int) -> bool:
        """Whether it is the server, not somebody else, that has the port."""
        try:
            server = psutil.Process(self.pid)
            for process in [server, *server.children(recursive=True)]:
                for each in process.net_connections("tcp"):
                    if each.status == psutil.CONN_LISTEN and each.laddr.port == port:
                        return True
        except psutil.Error:
            pass
        return False

    def stop(self) -> None:
        """End the server and all that it has started; returns when nothing of it is left."""
        if os.getpid() != self._owner:  # a fork of who started it
            return
        self._end_guardian()
        _started.pop(self.pid, None)

    def _end_guardian(self) -> None:
        if self.guardian.poll() is None:
            self.guardian.terminate()
        self.guardian.stdin.close()
        self.guardian.stdout.close()
        self.guardian.wait(GRACE_S + CHILDREN_GRACE_S + 30)


def started_here(pid: int) -> ServerProcess | None:
    """The server of that pid if this very process has started it."""
    process = _started.get(pid)
    return process if process is not None and process._owner == os.getpid() else None


def identity(pid: int) -> float | None:
    """When the process of that pid began, which tells it from a later one; None if it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
    except OSError:
        return False
    return True


def free_port(host: str) -> int:
    """A port that is free now; somebody may still take it before the server does."""
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as trial:
        trial.bind(address)
        return trial.getsockname()[1]


@atexit.register
def _stop_all() -> None:
    for process in list(_started.values()):
        process.stop()
