"""Many runs at once: one function, a list of points, any `concurrent.futures.Executor`.

Here, in processes on this machine, or on a Dask cluster, the outcomes are the same and in the
order of the points. A point that fails says so in its outcome and stops nobody else.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")

NUM_RETRIES = 1  # of a point whose worker broke; Dask has tried it on several workers by then
ANY_NUMBER = 2**31  # points handed over at once, to an executor that keeps its own queue


@dataclass(frozen=True, slots=True)
class Outcome(Generic[P, R]):
    """What became of one point: its value, or the error in words ("ValueError: ...")."""

    point: P
    value: R | None = None
    error: str | None = None


def sweep(
    run: Callable[[P], R],
    points: Sequence[P],
    executor: Executor | None = None,
    progress: bool = False,
) -> list[Outcome[P, R]]:
    """`run(point)` for each of `points`; one `Outcome` each, in the order of `points`.

    executor: in this process, one after another, if None; `open_executor` has those for more.
    `run` must draw what is random from seeds in its point, or the results differ from place to
    place; for other processes it must be a function of an importable module (or a `partial` of
    one). A point whose worker died is tried again at the end, alone, and then reported.
    progress: a bar on stderr.
    """
    outcomes: list[Outcome | None] = [None] * len(points)
    with _bar(len(points), progress) as tell:
        if executor is None:
            for place, point in enumerate(points):
                outcomes[place] = _outcome(point, _guarded(run, point))
                tell(outcomes[place])
            return outcomes
        limit = getattr(executor, "num_at_once", ANY_NUMBER)
        broken = []
        for place, answer in _answers(executor, run, points, range(len(points)), limit):
            if isinstance(answer, BaseException):
                broken.append(place)
            else:
                outcomes[place] = _outcome(points[place], answer)
                tell(outcomes[place])
        for place in sorted(broken):
            outcomes[place] = _outcome(points[place], _alone(executor, run, points, place))
            tell(outcomes[place])
    return outcomes


def _guarded(run: Callable[[P], R], point: P) -> tuple[R | None, str | None]:
    """(value, None) or (None, error in words), which travels where an exception may not."""
    try:
        return run(point), None
    except (Exception, SystemExit) as error:
        return None, _in_words(error)


def _answers(executor, run, points, places, limit: int) -> Iterator[tuple]:
    """(place, what `_guarded` returned or the exception that took its worker), as they come.

    No more than `limit` are handed over at once, so that a worker that breaks takes few along.
    """
    waiting, pending, done = deque(places), {}, SimpleQueue()
    try:
        while waiting or pending:
            while waiting and len(pending) < limit:
                place = waiting.popleft()
                future = _submit(executor, run, points[place])
                pending[future] = place
                future.add_done_callback(done.put)
            future = done.get()
            yield pending.pop(future), _answer(future)
    finally:  # an interrupt, say: what has not begun need not
        for future in pending:
            future.cancel()


def _submit(executor: Executor, run, point) -> Future:
    """The future of one point; one that has failed already if the executor takes no more."""
    try:
        return executor.submit(_guarded, run, point)
    except RuntimeError as error:  # BrokenExecutor, or shut down
        future = Future()
        future.set_exception(error)
        return future


def _answer(future: Future):
    """What came back, or the exception of the machinery: `run`'s own come back as words."""
    if future.cancelled():
        return RuntimeError("the executor cancelled it")
    return future.exception() or future.result()


def _alone(executor, run, points, place):
    """The answer of a point tried again with nobody beside it, so that it can harm nobody."""
    for _ in range(NUM_RETRIES):
        [(_, answer)] = _answers(executor, run, points, [place], 1)
        if not isinstance(answer, BaseException):
            return answer
    return None, f"{_in_words(answer)} (tried {NUM_RETRIES + 1} times)"


def _outcome(point: P, answer: tuple) -> Outcome:
    value, error = answer
    return Outcome(point, value, error)


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


@contextmanager
def _bar(total: int, progress: bool) -> Iterator[Callable[[Outcome], None]]:
    """What to call with each outcome: moves a bar on stderr if `progress`, with the failures."""
    if not progress:
        yield lambda outcome: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="run", file=sys.stderr) as bar:
        failed = 0

        def tell(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.error is not None
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
            bar.update()

        yield tell


@contextmanager
def open_executor(
    dask_address: str | None = None, num_workers: int | None = None
) -> Iterator[Executor]:
    """An executor for `sweep`, closed at the end: a Dask cluster's, or processes of this machine.

    dask_address: of a Dask scheduler, "tcp://host:8786", whose workers have this package
    installed. num_workers: processes here, one per core if None. Raises RuntimeError without
    `distributed`, OSError if nobody answers at the address, ValueError for num_workers < 1.
    """
    if dask_address is None:
        from coursekit.optimizers.processes import Processes

        with Processes(num_workers) as processes:
            yield processes
        return
    try:
        from distributed import Client
    except ImportError:
        raise RuntimeError("--dask needs distributed: pip install -e '.[cluster]'") from None
    with closing(Client(dask_address)) as client:
        # not pure: a point tried again is run again, its last failure is not looked up
        yield client.get_executor(pure=False)
