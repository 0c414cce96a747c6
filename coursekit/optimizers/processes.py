"""Processes of this machine as an executor that outlives them.

`concurrent.futures.ProcessPoolExecutor` is of no more use once a worker was killed (by the
kernel for want of memory, say). This one begins a new pool with the next submission.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor

from coursekit.device import num_cores


class Processes(Executor):
    """`num_workers` processes, one per core if None; close it with `shutdown` or `with`.

    They are spawned, not forked: threads and torch's state do not survive a fork. num_at_once:
    futures worth submitting at once, so that each worker has its next at hand. Raises
    ValueError for num_workers < 1.
    """

    def __init__(self, num_workers: int | None = None):
        self.num_workers = num_cores() if num_workers is None else num_workers
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be >= 1, got {num_workers}")
        self.num_at_once = 2 * self.num_workers
        self._pool = self._new_pool()

    def submit(self, fn, /, *args, **kwargs) -> Future:
        """Like `Executor.submit`; after a break, on new processes."""
        try:
            return self._pool.submit(fn, *args, **kwargs)
        except BrokenExecutor:
            self._pool.shutdown(wait=False)
            self._pool = self._new_pool()
            return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Like `Executor.shutdown`."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.num_workers, mp_context=context)
