"""Inverting the cost model: the largest budget whose iteration is predicted to hold the target.

A cost model says how long a batch takes; here the question is turned round. Decodes, their
contexts and the context of each chunk are in the prediction, so the budget shrinks as a prompt
advances, and is right on the first burst. What the model gets wrong on this machine today is
one factor, learned from the steps that run. Its weakness: one factor can't mend a model whose
error depends on what is in the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from coursekit.chunking.adaptive.state import Prompt, RanStep, SystemState
from coursekit.cost.base import CostModel

LARGEST_SURPRISE = 2.0  # a step that took longer than this times its prediction counts as this


class CostInverse:
    """Holds the duration of an iteration at `itl_target_s`, in seconds.

    cost: see `CostModel`; never changed. up, down: how much of a step's relative error, in
    logarithms, moves the factor if it took longer than predicted, and if it took less. With up
    over down the factor settles above the mean, at an expectile (Newey and Powell 1987) of
    what happens, so that noise is mostly under the target. A step counts by how near its
    prediction came to the target: what matters is the error there. efficient: of the budgets
    that hold the target take not the largest but the one of the most prompt tokens per second,
    where a device has such a size: past it longer steps buy nothing.
    model_error: the factor, 1 at first. Raises ValueError for what is out of range.
    """

    def __init__(
        self, cost: CostModel, itl_target_s: float, up: float = 0.3, down: float = 0.03,
        efficient: bool = False,
    ):  # fmt: skip
        if not itl_target_s > 0:
            raise ValueError(f"itl_target_s must be > 0 s, got {itl_target_s}")
        if not (0 <= up < 1 and 0 <= down < 1):
            raise ValueError(f"up and down must be in [0, 1), got {up} and {down}")
        self.cost = copy.copy(cost)  # a calibrated one remembers whether it was extrapolated
        self.itl_target_s = itl_target_s
        self.up, self.down, self.efficient = up, down, efficient
        self.model_error = 1.0

    def choose(self, state: SystemState) -> int:
        def holds(token_budget: int) -> bool:
            return self.predict_s(state, token_budget) <= self.itl_target_s

        budget = largest(holds, state.min_budget, state.max_budget)
        return self._most_efficient(state, budget) if self.efficient else budget

    def predict_s(self, state: SystemState, token_budget: int) -> float:
        """Seconds of the next iteration if its prompts use up `token_budget`."""
        chunks = fill(state.prompts, token_budget - state.num_decodes)
        seconds = self.cost.iteration_s(state.num_decodes, state.decode_context, chunks)
        return self.model_error * seconds

    def _most_efficient(self, state: SystemState, most: int) -> int:
        """The budget up to `most` with the most predicted prompt tokens per second."""

        def rate(token_budget: int) -> float:
            return (token_budget - state.num_decodes) / self.predict_s(state, token_budget)

        found = peak(rate, state.min_budget, most)
        return found if rate(found) > rate(most) else most

    def observe(self, step: RanStep) -> None:
        predicted_s = self.cost.iteration_s(step.num_decodes, step.decode_context, step.chunks)
        surprise = step.seconds / (self.model_error * predicted_s)
        surprise = max(1 / LARGEST_SURPRISE, min(surprise, LARGEST_SURPRISE))
        near = min(1.0, self.model_error * predicted_s / self.itl_target_s)
        self.model_error *= surprise ** (near * (self.up if surprise > 1 else self.down))


def fill(prompts: Sequence[Prompt], num_tokens: int) -> list[tuple[None, int, int]]:
    """Chunks of `prompts`, first come first served, of `num_tokens` tokens together.

    The last prompt is taken to go on for ever, and one begins if there is none: a budget that
    would do for endless prompts does for those that are there, and is steady while they end.
    """
    chunks, left = [], num_tokens
    for size, context in prompts[:-1]:
        taken = min(size, left)
        if taken < 1:
            return chunks
        chunks.append((None, taken, context))
        left -= taken
    if left > 0:
        chunks.append((None, left, prompts[-1].context if prompts else 0))
    return chunks


def largest(holds: Callable[[int], bool], low: int, high: int) -> int:
    """A place in low..high where `holds` ends: true there and false one further.

    The largest such if `holds` never becomes true again; low if it is false there, high if it
    does not end. Doubles its steps first, so it never looks far beyond the answer.
    """
    if not holds(low):
        return low
    step = low
    while low < high:
        tried = min(low + step, high)
        if not holds(tried):
            high = tried
            break
        low, step = tried, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def peak(value: Callable[[int], float], low: int, high: int) -> int:
    """Where in low..high `value` is greatest, if it rises up to there and falls from there on.

    So does a number of tokens over the time they take, if that time grows ever faster.
    """
    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        if value(left) < value(right):
            low = left + 1
        else:
            high = right
    return max(range(low, high + 1), key=value)
