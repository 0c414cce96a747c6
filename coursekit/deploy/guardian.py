"""Stands between a server and the program that started it, and ends the one when the other is gone.

`python -m coursekit.deploy.guardian LOG COMMAND…`, started with a pipe as its stdin that nobody
writes to: the system closes it when the program ends, by whatever means, SIGKILL among them. Then,
on SIGTERM, or when the server ends by itself, the guardian ends the server and everything that it
has started, and goes. The server is no part of the terminal's group, so that Ctrl-C reaches the
program alone, which stops it in order.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys

import psutil

GRACE_S = 15.0  # for the server to end in order, before it is killed
CHILDREN_GRACE_S = 5.0  # for its children, once it has gone
LOOK_EVERY_S = 0.2
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main(log: str, command: list[str]) -> int:
    """Run `command`, its output into `log`, its pid to stdout. Returns the server's exit code."""
    parent = os.getppid()
    told_to_stop = []
    signal.signal(signal.SIGTERM, lambda *_: told_to_stop.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the server become ours
    with open(log, "ab") as out:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0,
            preexec_fn=lambda: _prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        )  # fmt: skip
    print(server.pid, flush=True)
    # A fork of the parent may hold the pipe open, so its pid is looked at as well.
    while server.poll() is None and not told_to_stop and os.getppid() == parent:
        if select.select([sys.stdin], [], [], LOOK_EVERY_S)[0] and not os.read(0, 1):
            break
    return end(server)


def end(server: subprocess.Popen) -> int:
    """End the server, in order if it goes in time, and what is left. Returns its exit code."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            server.kill()
    code = server.wait()
    # Its children may be on their way out, and give back GPU memory and shared memory themselves.
    left = _send_all(signal.SIGTERM)
    psutil.wait_procs(left, timeout=CHILDREN_GRACE_S)
    while left := _send_all(signal.SIGKILL):
        psutil.wait_procs(left, timeout=1)
    if sys.platform != "linux":
        _kill_group(server.pid)
    return code if code >= 0 else 128 - code


def _send_all(number: int) -> list[psutil.Process]:
    """Signal what this process has started, those that left the server's group too (subreaper)."""
    found = psutil.Process().children(recursive=True)
    for process in found:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            pass
    return found


def _kill_group(leader: int) -> None:
    """Orphans, where they don't become children of this process."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _prctl(option: int, value: int) -> None:
    """Ask Linux for it; elsewhere there is no such thing, and the process group has to do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
