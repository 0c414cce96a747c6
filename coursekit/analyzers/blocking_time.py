"""Blocking time of a whole record: how long prefill kept decoding requests waiting, and whose.

Between its first and its last token a request waits in every iteration. What an iteration
takes beyond its decodes alone is blocking, for each request that waits in it, whether it gets its
token there or stands still, and the requests whose prompt tokens ran share the blame by tokens.
`blocking` plays one such scene on a real model; this reads any `Trace`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from coursekit.analyzers.blocking_findings import describe_blocking, describe_comparison
from coursekit.analyzers.blocking_sums import BlockingSums
from coursekit.analyzers.decode_baseline import decode_baseline
from coursekit.cost.base import CostModel
from coursekit.metrics import weighted_percentiles
from coursekit.trace import Trace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class BlockingAnalysis:
    """Who waited how long for whose prefill; seconds throughout. Make it with `of`.

    label: of the record; baseline: how it is known what iterations would have cost without
    prefill. by_request, a row each: request, num_prompt_tokens, num_gaps, itl_s (sum of its gaps),
    and what that consists of: baseline_s (the decodes of the iterations that gave it a token),
    blocked_s (prefill of others) and waiting_s (everything else: standing still beside decodes of
    others after a preemption, computing its own tokens again, time between iterations);
    standing_s: the part of blocked_s in iterations that gave it no token; worst_s: most blocking
    in one gap; caused_s: what its own prefill cost others. by_iteration, a row each: iteration,
    start_s, duration_s, baseline_s, blocking_s (for a request that waits in it), num_blocked
    requests, and blocked_s, of all of these. gaps: blocking in each gap, and how often.

    itl_s = baseline_s + blocked_s + waiting_s; all blocked_s together = all caused_s.
    """

    label: str
    baseline: str
    by_request: pd.DataFrame
    by_iteration: pd.DataFrame
    gaps: tuple[np.ndarray, np.ndarray]
    _sums: BlockingSums

    @classmethod
    def of(cls, trace: Trace, cost: CostModel | None = None) -> BlockingAnalysis:
        """Analyze a record: simulated, recorded or live.

        cost: the cost model of the run, which makes the baseline exact; without it the record's
        own iterations of decodes alone are asked, see `decode_baseline`. Raises ValueError for a
        record without iterations, and for one that does not tell what decodes cost.
        """
        if not trace.num_iterations:
            raise ValueError(
                "a trace needs at least 1 iteration to be analyzed, got 0: run the engine until "
                "it has served something"
            )
        baseline_s, how = decode_baseline(trace, cost)
        sums = BlockingSums.of(trace, baseline_s)
        return cls(
            trace.label, how, _by_request(trace, sums), _by_iteration(trace, sums), sums.gaps(),
            sums,
        )  # fmt: skip

    @cached_property
    def who_blocked_whom(self) -> pd.DataFrame:
        """blocker, blocked (requests by index) and seconds > 0: a row for each pair."""
        names = self.by_request["request"].to_numpy()
        blocked, blocker, seconds = self._sums.pairs()
        table = {"blocker": names[blocker], "blocked": names[blocked], "seconds": seconds}
        return _table(table, self.label)

    @property
    def blocked_s(self) -> float:
        """Blocking time of all requests together."""
        return float(self.by_request["blocked_s"].sum())

    @property
    def itl_s(self) -> float:
        """All gaps between tokens together."""
        return float(self.by_request["itl_s"].sum())

    @property
    def num_gaps(self) -> int:
        """Gaps between two tokens of a request."""
        return int(self.gaps[1].sum())

    @property
    def worst_s(self) -> float:
        """Most blocking in one gap; nan without gaps."""
        return float(self.gaps[0].max()) if self.num_gaps else np.nan

    def findings(self) -> str:
        """What was found, in one paragraph."""
        return describe_blocking(self)

    def gap_percentile_s(self, percent: float) -> float:
        """Blocking in one gap: a percentile over all gaps, nan without any."""
        return float(weighted_percentiles(*self.gaps, (percent,))[0])


@dataclass(frozen=True, eq=False)
class BlockingComparison:
    """Two runs of the same requests. Make it with `compare_blocking`.

    table, a row each: what, before, after (seconds, or a share), and reduction, 1 - after / before:
    below 0 it has grown, nan where there was none before. by_request: request, before_s, after_s,
    and saved_s of blocking, for the requests of both.
    """

    before: BlockingAnalysis
    after: BlockingAnalysis
    table: pd.DataFrame
    by_request: pd.DataFrame

    def findings(self) -> str:
        """What has changed, in one paragraph."""
        return describe_comparison(self)


def compare_blocking(before: BlockingAnalysis, after: BlockingAnalysis) -> BlockingComparison:
    """How much blocking a change has taken away, from two runs of the same requests.

    Raises ValueError if the runs share no request, or a request's prompt differs.
    """
    import pandas as pd

    both = before.by_request.merge(after.by_request, on="request", suffixes=("", "_after"))
    changed = both[both["num_prompt_tokens"] != both["num_prompt_tokens_after"]]
    if both.empty or len(changed):
        what = "no request is in both" if both.empty else (
            f"request {changed['request'].iloc[0]} has prompts of different lengths"
        )
        raise ValueError(f"before and after must be runs of the same requests, but {what}")
    rows = {
        "blocking of all requests": (before.blocked_s, after.blocked_s),
        "share of all gaps": tuple(_ratio(run.blocked_s, run.itl_s) for run in (before, after)),
        "of the median request": (both["blocked_s"].median(), both["blocked_s_after"].median()),
        "P99 of a gap": (before.gap_percentile_s(99), after.gap_percentile_s(99)),
        "worst gap": (before.worst_s, after.worst_s),
    }
    table = pd.DataFrame([
        {"what": what, "before": old, "after": new, "reduction": 1 - _ratio(new, old)}
        for what, (old, new) in rows.items()
    ])  # fmt: skip
    table.attrs["label"] = " · ".join(dict.fromkeys((before.label, after.label)))
    saved = pd.DataFrame({
        "request": both["request"], "before_s": both["blocked_s"],
        "after_s": both["blocked_s_after"], "saved_s": both["blocked_s"] - both["blocked_s_after"],
    })  # fmt: skip
    return BlockingComparison(before, after, table, saved)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else np.nan


def _by_request(trace: Trace, sums: BlockingSums) -> pd.DataFrame:
    requests, end_s = trace.requests, trace.iterations["end_s"]
    num_tokens, blocked_s = sums.num_tokens(), sums.blocked()
    itl_s = end_s[sums.last] - end_s[sums.first]
    standing_s = blocked_s - sums.in_decodes(sums.blocking_s)
    table = {
        "request": requests["request"], "num_prompt_tokens": requests["num_prompt_tokens"],
        "num_gaps": np.maximum(num_tokens - 1, 0), "itl_s": itl_s,
        "baseline_s": sums.in_decodes(sums.baseline_s), "blocked_s": blocked_s,
        "waiting_s": _without_rounding(sums.waiting(), end_s[-1]),
        "standing_s": _without_rounding(standing_s, end_s[-1]), "worst_s": sums.worst(),
        "caused_s": sums.caused(),
    }  # fmt: skip
    return _table(table, trace.label)


def _by_iteration(trace: Trace, sums: BlockingSums) -> pd.DataFrame:
    start_s = trace.iterations["start_s"]
    num_blocked, blocked_s = sums.by_iteration()
    table = {
        "iteration": np.arange(trace.num_iterations), "start_s": start_s,
        "duration_s": trace.iterations["end_s"] - start_s, "baseline_s": sums.baseline_s,
        "blocking_s": sums.blocking_s, "num_blocked": num_blocked, "blocked_s": blocked_s,
    }  # fmt: skip
    return _table(table, trace.label)


def _without_rounding(values: np.ndarray, clock_s: float) -> np.ndarray:
    """Differences of sums up to `clock_s`: what rounding can make of 0 is 0."""
    return np.where(values > 1e-12 * clock_s, values, 0.0)


def _table(columns: dict[str, np.ndarray], label: str) -> pd.DataFrame:
    import pandas as pd

    table = pd.DataFrame(columns)
    table.attrs["label"] = label
    return table
