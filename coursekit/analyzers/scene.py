"""The course's standing scene, simulated: streams decode, and one long prompt arrives.

Any scheduler, any cost model. `blocking` plays the same scene on the real model with a policy
wired in; a live engine plays it under the `ChunkTuner`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from coursekit.cost.base import CostModel
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.simulate import make_scheduler
from coursekit.trace import Trace
from coursekit.workload import Workload

LEAD, TAIL = 6, 6  # decode steps before the prompt and after its first token
MOST_CHUNKS = 4000


@dataclass(frozen=True, slots=True)
class SceneRun:
    """A played scene; the prompt is the last request of `trace`, the streams are the others.

    arrival_s, first_token_s: of the prompt; worst_gap_s, usual_gap_s: of any stream while the
    prompt was there, and before.
    """

    trace: Trace
    arrival_s: float
    first_token_s: float
    worst_gap_s: float
    usual_gap_s: float

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.arrival_s


def play_scene(
    cost: CostModel,
    scheduler: str = "token-budget",
    token_budget: int = 256,
    num_streams: int = 4,
    prompt_length: int = 2000,
    context: int = 64,
) -> SceneRun:
    """Simulate the scene.

    scheduler: a name in `coursekit.schedulers.NAMES`; context: tokens that each stream has
    behind it. Sizes in tokens. Raises ValueError for a size < 1, and for a budget that the
    streams' own tokens use up, so that the prompt never gets one.
    """
    sizes = {
        "token_budget": token_budget, "num_streams": num_streams,
        "prompt_length": prompt_length, "context": context,
    }  # fmt: skip
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")
    num_chunks = chunks_needed(token_budget, num_streams, prompt_length)
    outputs = LEAD + num_chunks + TAIL + math.ceil(num_streams * context / token_budget) + 1

    def play(arrivals: list[tuple[float, int, int]]) -> Trace:
        policy = make_scheduler(
            scheduler, token_budget=token_budget, max_num_seqs=num_streams + 1
        )
        workload = Workload(*(list(column) for column in zip(*arrivals)))
        return Engine(policy, SimulatedExecutor(cost)).run(workload.source())

    streams = [(0.0, context, outputs)] * num_streams
    alone = play(streams)
    arrival_s = float(alone.token_times_s(num_streams - 1)[LEAD - 1])
    trace = play([*streams, (arrival_s, prompt_length, 1)])
    return read_scene(trace, num_streams, arrival_s)


def chunks_needed(token_budget: int, num_streams: int, prompt_length: int) -> int:
    """Iterations that the prompt takes beside the streams. Raises ValueError if it never ends."""
    room = token_budget - num_streams
    if room < 1:
        raise ValueError(
            f"token_budget must be > {num_streams}, one token for each stream, got "
            f"{token_budget}: the prompt would never get a token"
        )
    chunks = -(-prompt_length // room)
    if chunks > MOST_CHUNKS:
        raise ValueError(
            f"a prompt of {prompt_length} tokens in chunks of {room} takes {chunks} iterations, "
            f"more than {MOST_CHUNKS}; raise token_budget or shorten the prompt"
        )
    return chunks


def read_scene(trace: Trace, num_streams: int, arrival_s: float) -> SceneRun:
    """What became of the prompt, request `num_streams`, and of the streams meanwhile."""
    first_token_s = float(trace.requests["first_token_s"][num_streams])
    ends, gaps = gaps_of_streams(trace, num_streams)
    before = gaps[ends <= arrival_s]
    during = gaps[(ends > arrival_s) & (ends - gaps < first_token_s)]
    return SceneRun(
        trace, arrival_s, first_token_s,
        float(during.max()) if len(during) else math.nan,
        float(np.median(before)) if len(before) else math.nan,
    )  # fmt: skip


def gaps_of_streams(trace: Trace, num_streams: int) -> tuple[np.ndarray, np.ndarray]:
    """Every gap between two tokens of the first requests: when it ended, and its length, s."""
    times = [trace.token_times_s(index) for index in range(num_streams)]
    ends = [each[1:] for each in times]
    gaps = [np.diff(each) for each in times]
    return np.concatenate(ends), np.concatenate(gaps)
