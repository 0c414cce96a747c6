"""Additive increase, multiplicative decrease: feel the way up to a target, and back off past it.

Source: Chiu and Jain (1989), and TCP's congestion control, with two things that TCP learned
later: nothing is concluded from a step that did not use its budget (RFC 7661), and backing off
by less than half keeps more of the throughput (0.7, RFC 9438). It needs to know nothing of the
device. Its weakness: it learns from late steps only, so it is early or late on every change, and a
prompt's later chunks, which take longer at the same size, are a change as well.
"""

from __future__ import annotations

from coursekit.chunking.adaptive.state import RanStep, SystemState


class Aimd:
    """Holds the duration of a step near `itl_target_s`, in seconds.

    start: budget of the first iteration. A step over the target multiplies the budget by
    `decrease`, one under `1 - slack` of it that used its whole budget adds `increase` tokens;
    between the two the budget stands. Steps without prompt tokens say nothing.
    Raises ValueError for what is out of range.
    """

    def __init__(
        self, itl_target_s: float, start: int = 128, increase: int = 16, decrease: float = 0.7,
        slack: float = 0.1,
    ):  # fmt: skip
        if not itl_target_s > 0:
            raise ValueError(f"itl_target_s must be > 0 s, got {itl_target_s}")
        if start < 1 or increase < 1:
            raise ValueError(f"start and increase must be >= 1, got {start} and {increase}")
        if not (0 < decrease < 1 and 0 <= slack < 1):
            raise ValueError(
                f"decrease must be in (0, 1) and slack in [0, 1), got {decrease} and {slack}"
            )
        self.itl_target_s = itl_target_s
        self.start, self.increase, self.decrease, self.slack = start, increase, decrease, slack

    def choose(self, state: SystemState) -> int:
        last, budget = state.last, state.token_budget
        if last is None:
            budget = self.start
        elif last.num_prefill_tokens:
            if last.seconds > self.itl_target_s:
                budget = int(budget * self.decrease)
            elif last.seconds < (1 - self.slack) * self.itl_target_s and _was_full(last):
                budget += self.increase
        return state.clamp(budget)

    def observe(self, step: RanStep) -> None:
        """All that counts is in the next state."""


def _was_full(step: RanStep) -> bool:
    return step.num_tokens >= step.token_budget
