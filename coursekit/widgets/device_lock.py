"""One measurement at a time: two widgets that share a device would only measure each other.

This is an agreement among the widgets of one kernel. It does not keep other cells or other
processes off the device.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_holder = ""
_POLL_S = 0.05


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
    global _holder
    held = _lock.acquire(blocking=False)
    if not held and on_wait is not None:
        on_wait(_holder)
    while not held and not (should_stop is not None and should_stop()):
        held = _lock.acquire(timeout=_POLL_S)
    if not held:
        yield False
        return
    try:
        _holder = name
        yield True
    finally:
        _holder = ""
        _lock.release()
