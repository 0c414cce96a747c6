"""Skipping what can be foreseen: a stretch of iterations in which requests only decode.

After an iteration of decodes alone that finished nobody, the next one is the same with one
token more in each context, and so on until a request finishes, one arrives, or KV blocks run
out. Such a stretch needs no scheduler: here are its times and KV blocks, computed exactly as
the walk would have computed them, in a short loop or, if it is long, all at once.
"""

from __future__ import annotations

import math

import numpy as np

LONG = 40  # iterations from which arrays cost less than a loop
LONGEST = 4096  # iterations computed at once, so that an arrival does not waste many


def jump(scheduler, executor, recorder, now_s: float, last_s: float, event_s: float) -> float:
    """Run the iterations that are certain to be decodes alone, and return the new time.

    last_s: duration of the iteration before, decodes alone of the same requests; event_s: when
    something may happen from outside. Leaves to the walk the iteration in which a request
    finishes, and all that start at or after `event_s`.
    """
    count = min(scheduler.group.num_steps_until_finish() - 1, LONGEST)
    if event_s != math.inf:  # iterations grow, so no more than these can start before it
        count = min(count, int((event_s - now_s) / last_s) + 1)
    if count < 1 or now_s >= event_s:
        return now_s
    compute = _in_a_loop if count < LONG else _at_once
    ends_s, num_blocks_used = compute(scheduler, executor, now_s, count, event_s)
    if not len(ends_s):
        return now_s
    recorder.record_more(ends_s, num_blocks_used)
    kv = scheduler.kv
    kv.num_free = kv.num_blocks - int(num_blocks_used[-1])
    scheduler.group.step(len(ends_s))
    return float(ends_s[-1])


def _in_a_loop(scheduler, executor, now_s, count, event_s) -> tuple[list, list]:
    """Ends and KV blocks in use of up to `count` iterations."""
    group, kv, iteration_s = scheduler.group, scheduler.kv, executor.cost.iteration_s
    size, context, free, total = group.size, group.context, kv.num_free, kv.num_blocks
    ends_s, used = [], []
    for needed in group.blocks_of_steps(count):
        if needed > free or now_s >= event_s:
            break
        free -= needed
        now_s += iteration_s(size, context, ())
        context += size
        ends_s.append(now_s)
        used.append(total - free)
    return ends_s, used


def _at_once(scheduler, executor, now_s, count, event_s) -> tuple[np.ndarray, np.ndarray]:
    """The same in arrays."""
    group, kv = scheduler.group, scheduler.kv
    blocks = np.cumsum(group.blocks_of_steps(count))
    count = int(np.searchsorted(blocks, kv.num_free, "right"))  # steps whose blocks are free
    durations = executor.cost.decode_run_s(group.size, group.context, count)
    ends_s = np.cumsum(np.concatenate(([now_s], durations)))[1:]
    # an iteration runs if it starts before the event, so the last may end after it
    count = min(count, int(np.searchsorted(ends_s, event_s)) + 1)
    return ends_s[:count], kv.num_blocks - kv.num_free + blocks[:count]
