"""What a tuner shows: iterations, gaps of streams, prompts; of a simulated scene or a live run.

`TunerView` holds it, `view_of_scene` fills it from a played scene at once, `Follower` fills it
event by event while an engine runs. The picture of it is in `plots.tuner`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

import numpy as np

from coursekit.analyzers.scene import SceneRun, gaps_of_streams, play_scene

if TYPE_CHECKING:
    from coursekit.cost import CalibratedCost

MOST_ITERATIONS = 20_000  # kept; a run of hours forgets its beginning


@dataclass(slots=True)
class PromptRun:
    """A long prompt on its way, at a token budget; times in seconds, nan: not (yet)."""

    prompt_length: int
    token_budget: int
    arrival_s: float
    first_token_s: float = nan
    worst_gap_s: float = nan
    predicted_gap_s: float = nan
    predicted_ttft_s: float = nan

    @property
    def ttft_s(self) -> float:
        return self.first_token_s - self.arrival_s


@dataclass(slots=True)
class TunerView:
    """What there is to see: columns of iterations and of gaps, in order of time, seconds.

    gap_ends_s: when each gap ended. slo_s: the longest gap that is fine.
    """

    label: str
    slo_s: float
    starts_s: list[float] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    num_prefill: list[int] = field(default_factory=list)
    num_decode: list[int] = field(default_factory=list)
    gap_ends_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)
    prompts: list[PromptRun] = field(default_factory=list)

    @property
    def worst_gap_s(self) -> float:
        return max(self.gaps_s, default=nan)

    @property
    def usual_gap_s(self) -> float:
        """The median gap."""
        return float(np.median(self.gaps_s)) if self.gaps_s else nan

    @property
    def num_over_slo(self) -> int:
        return sum(gap > self.slo_s for gap in self.gaps_s)


def view_of_scene(run: SceneRun, slo_s: float, token_budget: int) -> TunerView:
    """A simulated or recorded scene, while all streams decode."""
    trace = run.trace
    num_streams = trace.num_requests - 1
    begun_s = max(trace.token_times_s(index)[0] for index in range(num_streams))
    done_s = max(trace.requests["finished_s"][:num_streams].min(), run.first_token_s)
    gap_ends_s, gaps_s = gaps_of_streams(trace, num_streams)
    kept = (gap_ends_s - gaps_s >= begun_s) & (gap_ends_s <= done_s)
    order = np.argsort(gap_ends_s[kept], kind="stable")
    starts_s, ends_s = trace.iterations["start_s"], trace.iterations["end_s"]
    rows = (starts_s >= begun_s) & (ends_s <= done_s)
    columns = ("start_s", "end_s", "num_prefill_tokens", "num_decode_tokens")
    prompt = PromptRun(
        int(trace.requests["num_prompt_tokens"][-1]), token_budget, run.arrival_s,
        run.first_token_s, run.worst_gap_s,
    )  # fmt: skip
    return TunerView(
        trace.label, slo_s, *(trace.iterations[name][rows].tolist() for name in columns),
        gap_ends_s[kept][order].tolist(), gaps_s[kept][order].tolist(), [prompt],
    )  # fmt: skip


class Follower:
    """Turns events into `view`, one at a time; see `worker` for what they hold.

    The view begins when all streams have begun to decode: until then they block each other.
    cost: predicts each prompt's gap and TTFT as it arrives. scheduler, num_streams: of the run.
    """

    def __init__(
        self, label: str, slo_s: float, cost: CalibratedCost, scheduler: str, num_streams: int
    ):
        self.view = TunerView(label, slo_s)
        self.num_streams = num_streams
        self._cost, self._scheduler = cost, scheduler
        self._budget = 0
        self._last_s: dict[int, float] = {}  # stream -> when it had its last token
        self._prompts: dict[int, PromptRun] = {}  # those on their way

    @property
    def num_prompts_on_their_way(self) -> int:
        """Prompts that have not had their first token."""
        return len(self._prompts)

    def take(self, event: dict) -> None:
        """Account for an event; those that are not about the run are ignored."""
        if event["event"] == "step":
            self._take_step(event)
        elif event["event"] == "budget":
            self._budget = event["value"]
        elif event["event"] == "injected":
            prompt = PromptRun(event["prompt_length"], self._budget, event["arrival_s"])
            self._predict(prompt)
            self._prompts[event["request"]] = prompt
            self.view.prompts.append(prompt)

    def _take_step(self, event: dict) -> None:
        view, end_s = self.view, event["end_s"]
        self._budget = event["budget"]
        begun = bool(view.ends_s) or len(self._last_s) >= self.num_streams
        if begun:
            view.starts_s.append(event["start_s"])
            view.ends_s.append(end_s)
            view.num_prefill.append(event["prefill"])
            view.num_decode.append(event["decode"])
        streams = [request for request in event["tokens"] if request not in self._prompts]
        for request in streams:
            if begun and request in self._last_s:
                self._take_gap(end_s, end_s - self._last_s[request])
            self._last_s[request] = end_s
        for request in event["finished"]:
            self._last_s.pop(request, None)
            if prompt := self._prompts.pop(request, None):
                prompt.first_token_s = end_s
        if len(view.ends_s) > 2 * MOST_ITERATIONS:
            self._forget()

    def _take_gap(self, end_s: float, gap_s: float) -> None:
        self.view.gap_ends_s.append(end_s)
        self.view.gaps_s.append(gap_s)
        for prompt in self._prompts.values():
            if end_s > prompt.arrival_s:
                prompt.worst_gap_s = max(gap_s, prompt.worst_gap_s)  # of nan, the first counts

    def _forget(self) -> None:
        view = self.view
        for column in (view.starts_s, view.ends_s, view.num_prefill, view.num_decode):
            del column[:-MOST_ITERATIONS]
        for column in (view.gap_ends_s, view.gaps_s):
            del column[: -MOST_ITERATIONS * max(1, self.num_streams)]

    def _predict(self, prompt: PromptRun) -> None:
        """What a simulation with the calibrated cost says; nan where the prompt can't run."""
        try:
            with warnings.catch_warnings():  # far from what was calibrated it says so; it is shown
                warnings.simplefilter("ignore")
                run = play_scene(
                    self._cost, self._scheduler, prompt.token_budget, max(1, self.num_streams),
                    prompt.prompt_length,
                )  # fmt: skip
        except ValueError:
            return
        prompt.predicted_gap_s, prompt.predicted_ttft_s = run.worst_gap_s, run.ttft_s
