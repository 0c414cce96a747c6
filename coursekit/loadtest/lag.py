"""Is the client fast enough? What it measures is the server's time plus its own delay.

Two delays are known: how late a request was sent, and how late the event loop, which stamps
the tokens, woke when it should have. Beside the gaps they are to measure they have to be small.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from coursekit.itl import itls
from coursekit.loadtest.outcome import Outcome
from coursekit.trace import Trace

SAMPLE_S = 0.01
LIMIT = 0.1  # of the median gap, or of the median TTFT: beyond it the client is to blame


class LoopLag:
    """Samples how late the running event loop is; `values_s` grows by 100 a second.

    The loop's timers count in milliseconds, so about one is the least that it ever is.
    """

    def __init__(self):
        self.values_s = array("d")

    async def sample(self) -> None:
        """Sample until cancelled."""
        now_s = asyncio.get_running_loop().time
        while True:
            due_s = now_s() + SAMPLE_S
            await asyncio.sleep(SAMPLE_S)
            self.values_s.append(max(0.0, now_s() - due_s))


@dataclass(frozen=True, slots=True)
class ClientLag:
    """The client's own delays, seconds: P99 and maximum of each; nan without samples."""

    loop_p99_s: float
    loop_max_s: float
    send_p99_s: float
    send_max_s: float
    num_loop_samples: int

    @classmethod
    def of(cls, loop_lags_s: Iterable[float], outcomes: Iterable[Outcome]) -> ClientLag:
        """From the loop's lags and the requests that were sent."""
        loop = np.array(loop_lags_s)
        late = np.array([o.sent_s - o.scheduled_s for o in outcomes if o.sent_s == o.sent_s])
        return cls(*_p99_and_max(loop), *_p99_and_max(late), len(loop))

    def is_too_slow(self, trace: Trace) -> bool:
        """Whether P99 of the loop's lag is over LIMIT of the median gap between a request's
        events, or P99 of the sending's over LIMIT of the median TTFT."""
        gap_s, ttft_s = _medians_s(trace)
        return self.loop_p99_s > LIMIT * gap_s or self.send_p99_s > LIMIT * ttft_s

    def verdict(self, trace: Trace) -> str:
        """One line: whether the numbers are the server's, and what that rests on."""
        gap_s, ttft_s = _medians_s(trace)
        head, tail = "the client kept up", ""
        if self.is_too_slow(trace):
            head = "THE CLIENT WAS TOO SLOW"
            tail = ": these times are not the server's alone; send less, or from another machine"
        return (
            f"{head} (P99: event loop {_ms(self.loop_p99_s)} late beside a median gap of "
            f"{_ms(gap_s)}, requests sent {_ms(self.send_p99_s)} late beside a median TTFT of "
            f"{_ms(ttft_s)}; at most {LIMIT:.0%}){tail}"
        )


def _medians_s(trace: Trace) -> tuple[float, float]:
    """Median gap between a request's events, and median TTFT; nan where there is none."""
    gaps_s, _ = itls(trace)
    ttfts_s = trace.requests["first_token_s"] - trace.requests["arrival_s"]
    return _median(gaps_s[gaps_s > 0]), _median(ttfts_s[~np.isnan(ttfts_s)])


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _p99_and_max(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return np.nan, np.nan
    return float(np.percentile(values, 99)), float(values.max())


def _ms(seconds: float) -> str:
    return "n/a" if seconds != seconds else f"{1e3 * seconds:.1f} ms"
