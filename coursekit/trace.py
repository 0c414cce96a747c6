"""The record of a run: what every iteration did, and what became of every request.

Simulated, on torch or inside vLLM, an engine leaves the same tables, and everything else
(metrics, plots, analyzers) reads them. They are columns of numpy arrays. Token times are not
stored one by one: `runs` and `chunks` say at the end of which iterations a request's tokens
came, and the iterations say when that was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Table = dict[str, np.ndarray]

# Column -> dtype of each table. Times are seconds on the run's own clock.
ITERATIONS = {
    "start_s": "f8",
    "end_s": "f8",
    "num_prefill_tokens": "i4",
    "num_decode_tokens": "i4",
    "num_running": "i4",  # requests running after the batch was decided
    "num_waiting": "i4",  # and waiting
    "num_blocks_used": "i4",  # KV blocks held while the iteration ran
    "num_preempted": "i4",  # requests that lost their blocks when it was decided
    "is_decode_step": "i4",  # 1 if all requests of the decode group got a token in it
}
REQUESTS = {
    "request": "i8",  # its index in the workload
    "arrival_s": "f8",
    "num_prompt_tokens": "i8",
    "num_output_tokens": "i8",  # generated so far
    "priority": "i8",
    "priority_class": "O",
    "first_scheduled_s": "f8",  # start of the first iteration with a token of it; nan if none
    "first_token_s": "f8",  # nan if none
    "finished_s": "f8",  # nan if it has not
    "num_preemptions": "i8",
    "num_cached_tokens": "i8",  # prompt tokens found in the prefix cache at first admission
}
# Tokens of one request in one iteration, other than those of the decode group.
CHUNKS = {
    "iteration": "i4",
    "request": "i4",
    "num_tokens": "i4",
    "context": "i4",  # tokens computed before it
    "samples": "i4",  # 1 if a new token of the request came at the iteration's end
}
# A stretch of decode steps in each of which the request got one token.
RUNS = {
    "request": "i8",
    "first_step": "i8",  # counted in decode steps: the rows of iterations with is_decode_step
    "num_tokens": "i8",
}

TABLES = {"iterations": ITERATIONS, "requests": REQUESTS, "chunks": CHUNKS, "runs": RUNS}


@dataclass(slots=True, eq=False)
class Trace:
    """Four tables and a label that says where the times are from.

    label: "simulated (...)", "recorded (device, date)" or "live (device)". iterations,
    requests, chunks, runs: columns as in ITERATIONS, REQUESTS, CHUNKS and RUNS; `requests`
    has one row per request that arrived, in the order of the index; `chunks` and `runs` are
    in order of time (of their end, for runs).
    """

    label: str
    iterations: Table
    requests: Table
    chunks: Table
    runs: Table
    info: dict = field(default_factory=dict)  # settings of the run: plain JSON values

    @property
    def num_iterations(self) -> int:
        """Rows of `iterations`."""
        return len(self.iterations["start_s"])

    @property
    def num_requests(self) -> int:
        """Rows of `requests`."""
        return len(self.requests["request"])

    def step_ends_s(self) -> np.ndarray:
        """End of each decode step, (num_decode_steps,): what `runs` counts in."""
        return self.iterations["end_s"][self.iterations["is_decode_step"] == 1]

    def token_times_s(self, request: int) -> np.ndarray:
        """When each token of one request came, (num_output_tokens,), in order.

        request: its index in the workload. Raises ValueError for one that is not in the record.
        """
        if request not in self.requests["request"]:
            raise ValueError(f"request {request} is not in the record of {self.num_requests}")
        chunks, runs = self.chunks, self.runs
        sampled = (chunks["request"] == request) & (chunks["samples"] == 1)
        times = [self.iterations["end_s"][chunks["iteration"][sampled]]]
        step_ends_s = self.step_ends_s()
        for run in np.flatnonzero(runs["request"] == request):
            first = runs["first_step"][run]
            times.append(step_ends_s[first : first + runs["num_tokens"][run]])
        return np.sort(np.concatenate(times))

    def to_pandas(self) -> dict:
        """The four tables as pandas DataFrames, by name."""
        import pandas as pd

        return {name: pd.DataFrame(getattr(self, name)) for name in TABLES}


def empty_table(columns: dict[str, str], num_rows: int) -> Table:
    """A table of zeros (None for objects) with `columns`."""
    return {name: np.zeros(num_rows, dtype) for name, dtype in columns.items()}
