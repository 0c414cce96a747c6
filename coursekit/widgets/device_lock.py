"""One measurement at a time: two widgets that share a device would only measure each other.

This is an agreement among the widgets of one user on one machine, also of several notebooks. It
does not keep other cells or other programs off the device. It ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = Path(tempfile.gettempdir(), f"coursekit-device-{os.getuid()}.lock")
_POLL_S = 0.05
_lock = threading.Lock()
_file = None


def take_device(name: str) -> str | None:
    """Hold the device as `name`, or, if another holds it, return that one's name."""
    global _file
    if not _lock.acquire(blocking=False):
        return _holder()
    file = open(LOCK_FILE, "a+")  # noqa: SIM115 - it is held open, and with it the lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        _lock.release()
        return f"{_holder()} in another notebook"
    file.truncate(0)
    file.write(name)
    file.flush()
    _file = file
    return None


def release_device() -> None:
    """Let go of the device. Raises RuntimeError if this process does not hold it."""
    global _file
    if _file is None:
        raise RuntimeError("the device is not held; take it before releasing it")
    _file.truncate(0)
    _file.close()
    _file = None
    _lock.release()


def _holder() -> str:
    return LOCK_FILE.read_text() or "another widget"


@contextmanager
def hold_device(
    name: str,
    on_wait: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[bool]:
    """Hold the device while the block runs; wait for it if another holds it.

    name: who will hold it, for the message of those who wait. on_wait: called once with the
    present holder's name if there is a wait. should_stop: polled while waiting.
    Yields True once held, False if `should_stop` ended the wait.
    """
    holder = take_device(name)
    if holder is not None and on_wait is not None:
        on_wait(holder)
    while holder is not None and not (should_stop is not None and should_stop()):
        time.sleep(_POLL_S)
        holder = take_device(name)
    if holder is not None:
        yield False
        return
    try:
        yield True
    finally:
        release_device()
