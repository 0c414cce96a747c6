"""A run of a real vLLM that somebody recorded: how it was set, what came, and when.

    meta.json       the engine's whole configuration, as it had resolved it
    requests.jsonl  per request: input_toks, output_toks, arrival_time, queued_ts,
                    scheduled_ts, first_token_ts, last_token_ts

The format of LLMServingSim's bench (github.com/casys-kaist/LLMServingSim, bench/core). Stamps
are the engine core's monotonic clock, taken as an iteration's output leaves it; only
arrival_time is the caller's wall clock. The clocks are laid over each other where a request
was queued soonest after its arrival: that delay, about a millisecond, is taken for none.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coursekit.workload import Workload

STAMPS = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
LENGTHS = ("input_toks", "output_toks")
MAX_TOKEN_ID = 32_000  # for made-up prompts: only whether they are equal matters


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """One recorded run; times in seconds after the first request's arrival, (num_requests,).

    meta: meta.json. prompts: token ids by request, or None if they are not known.
    """

    meta: dict
    num_prompt_tokens: np.ndarray
    num_output_tokens: np.ndarray
    arrival_s: np.ndarray
    queued_s: np.ndarray
    scheduled_s: np.ndarray
    first_token_s: np.ndarray
    last_token_s: np.ndarray
    prompts: list[list[int]] | None = None

    @property
    def label(self) -> str:
        """Where its times are from."""
        device = self.meta.get("hardware", {}).get("device_name", "unknown device")
        day = self.meta.get("started_at", "undated")[:10]
        return f"recorded ({device}, vLLM {self.meta['vllm_version']}, {day})"

    def workload(self) -> Workload:
        """What arrived. Unknown prompts are made up, and have nothing in common."""
        prompts = self.prompts
        if prompts is None:
            generators = map(np.random.default_rng, range(len(self.arrival_s)))
            pairs = zip(generators, self.num_prompt_tokens.tolist(), strict=True)
            prompts = [rng.integers(0, MAX_TOKEN_ID, count).tolist() for rng, count in pairs]
        return Workload(
            self.arrival_s, self.num_prompt_tokens, self.num_output_tokens,
            prompt_token_ids=prompts,
        )  # fmt: skip

    def metrics(self) -> dict[str, np.ndarray]:
        """ttft_s, tpot_s and e2e_s by request."""
        gaps = np.maximum(self.num_output_tokens - 1, 1)
        return {
            "ttft_s": self.first_token_s - self.arrival_s,
            "tpot_s": (self.last_token_s - self.first_token_s) / gaps,
            "e2e_s": self.last_token_s - self.arrival_s,
        }

    def first_iterations_s(self) -> list[float]:
        """Seconds of the iterations up to the first request's first token.

        An engine stamps only between two iterations, so what lies between two stamps is taken
        for one. That holds while requests come and get first tokens all the time, as they do
        at the start; later most iterations end without a stamp.
        """
        stamps = np.concatenate((self.queued_s, self.scheduled_s, self.first_token_s))
        began, ended = self.scheduled_s[0], self.first_token_s[0]
        inside = np.sort(stamps[(stamps >= began) & (stamps <= ended)])
        ends = inside[np.diff(inside, prepend=-1.0) > 1e-3]  # some stamps are one event
        return np.diff(ends).tolist()


def read_recorded_run(folder: str | Path, prompts: str | Path | None = None) -> RecordedRun:
    """The run in `folder`; prompts: the JSONL file of token ids that it was made with.

    Raises FileNotFoundError for a missing file, and ValueError for one that is not such a
    record, or for prompts other than those whose SHA-256 the record holds.
    """
    folder = Path(folder)
    meta = json.loads((folder / "meta.json").read_text())
    rows = _rows(folder / "requests.jsonl")
    arrival = np.array([row["arrival_time"] for row in rows])
    stamps = {name: np.array([row[name] for row in rows]) for name in STAMPS}
    inputs, outputs = (np.array([row[name] for row in rows], "i8") for name in LENGTHS)
    zero = float((stamps["queued_ts"] - arrival).min()) + arrival[0]
    since = {f"{name.removesuffix('_ts')}_s": values - zero for name, values in stamps.items()}
    ids = None if prompts is None else _prompts(Path(prompts), meta, inputs)
    return RecordedRun(meta, inputs, outputs, arrival - arrival[0], **since, prompts=ids)


def _rows(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    wanted = ("arrival_time", *STAMPS, *LENGTHS)
    for number, row in enumerate(rows):
        if missing := [name for name in wanted if not isinstance(row.get(name), int | float)]:
            raise ValueError(
                f"{path}: request {number} has no number for {missing[0]!r}, got "
                f"{row.get(missing[0])!r}; record the run with statistics on"
            )
    if not rows:
        raise ValueError(f"{path} has 0 requests, needs at least 1")
    return rows


def _prompts(path: Path, meta: dict, num_prompt_tokens: np.ndarray) -> list[list[int]]:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != meta["dataset_hash"]:
        raise ValueError(
            f"{path} is not the run's {meta['dataset_path']}: its SHA-256 is {found}, the record "
            f"says {meta['dataset_hash']}"
        )
    ids = [json.loads(line)["input_tok_ids"] for line in path.read_text().splitlines()]
    if [len(each) for each in ids] != num_prompt_tokens.tolist():
        raise ValueError(f"the prompts of {path} are not as long as the record's requests")
    return ids
