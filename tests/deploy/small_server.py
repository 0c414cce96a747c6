"""A server of the standard library in place of vLLM, where only its being a process is tested.

`command_of(port, ...)` is started as vLLM is. It answers /health, and has a child in a session of
its own, out of reach of a signal to its group.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

SOURCE = """
import http.server, os, signal, subprocess, sys, time
port, children_file, behaviour = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if behaviour == "deaf":  # its child as well
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True, restore_signals=False)
open(children_file, "w").write(f"{os.getpid()} {child.pid}")
if behaviour == "fails":
    sys.exit("api_server.py: error: unrecognized arguments: --chunk-size 5")
if behaviour == "loses the race":
    sys.exit("OSError: [Errno 98] Address already in use")
if behaviour == "sleeps":
    time.sleep(600)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


def command_of(port: int, children_file: Path, behaviour: str = "good") -> list[str]:
    return [sys.executable, "-c", SOURCE, str(port), str(children_file), behaviour]


def pids(children_file: Path, timeout_s: float = 30.0) -> list[int]:
    """Of the server and its child, once both are there."""

    def written() -> list[str]:
        return children_file.read_text().split() if children_file.exists() else []

    assert comes_true(lambda: len(written()) == 2, timeout_s)
    return [int(pid) for pid in written()]


def all_gone(wanted: list[int], timeout_s: float = 40.0) -> bool:
    """Whether no process of these pids lives, at the latest then."""
    return comes_true(lambda: not any(lives(pid) for pid in wanted), timeout_s)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def tree_of(pid: int) -> list[int]:
    """A process with all that it has started."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def comes_true(condition, timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True


def python(source: str, *arguments, **how) -> subprocess.Popen:
    """Another Python process that runs `source`, in a session of its own."""
    command = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, env=dict(os.environ), text=True, **how)
