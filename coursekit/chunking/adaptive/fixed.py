"""No control at all: always the same budget. What the other controllers are compared with."""

from __future__ import annotations

from coursekit.chunking.adaptive.state import RanStep, SystemState


class FixedBudget:
    """`token_budget`, always. Raises ValueError for one < 1."""

    def __init__(self, token_budget: int):
        if token_budget < 1:
            raise ValueError(f"token_budget must be >= 1, got {token_budget}")
        self.token_budget = token_budget

    def choose(self, state: SystemState) -> int:
        return state.clamp(self.token_budget)

    def observe(self, step: RanStep) -> None:
        """Nothing is learned."""
