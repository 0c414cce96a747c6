"""A scheduler whose token budget a controller turns before every iteration.

The driver stands where a scheduler stands: in the simulator, in the torch engine and, through
`coursekit.deploy.vllm_scheduler`, inside vLLM. All decisions but the budget are the policy's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from coursekit.batch import Batch
from coursekit.chunking.adaptive.heuristic import ModuleHeuristic
from coursekit.chunking.adaptive.state import Controller, RanStep, look
from coursekit.schedulers import DecodeFirst, OrcaMixed, PrefillFirst, StallFree
from coursekit.schedulers.base import NO_LIMIT, Scheduler
from coursekit.schedulers.decode_group import DecodeGroup

MOST_STEPS = 100_000  # whose budgets are kept; an engine that runs for weeks forgets its beginning

MIN_PREFILL_TOKENS = 16


class AdaptiveChunkedPrefill:
    """Drives `policy` with the budgets that `controller` chooses.

    policy: a scheduler that cuts prompts to its token budget; `StallFree` of at most
    `max_token_budget` tokens if None. controller: see `state.Controller`; the module's heuristic
    with `base_chunk_size` and `itl_target_s` if None. max_token_budget: the most it may choose,
    the policy's own if None. min_prefill_tokens: what prompts get beside the decodes at least,
    even where that breaks the target, so that every prompt ends.

    budgets: those of the last iterations that ran, in order. Everything else that a scheduler
    has is the policy's. Raises ValueError for a policy that runs prompts whole or has no budget,
    and for limits out of range.
    """

    can_jump = False  # a controller wants to see every step

    def __init__(
        self,
        policy: Scheduler | None = None,
        controller: Controller | None = None,
        base_chunk_size: int = 512,
        itl_target_s: float | None = None,
        max_token_budget: int | None = None,
        min_prefill_tokens: int = MIN_PREFILL_TOKENS,
    ):
        if policy is None:
            policy = StallFree(2048 if max_token_budget is None else max_token_budget)
        self.policy = policy
        self.controller = controller or ModuleHeuristic(base_chunk_size, itl_target_s)
        self.max_token_budget = (
            policy.token_budget if max_token_budget is None else max_token_budget
        )
        self.min_prefill_tokens = min_prefill_tokens
        _check(policy, self.max_token_budget, min_prefill_tokens)
        self.budgets: deque[int] = deque(maxlen=MOST_STEPS)
        self._last: RanStep | None = None

    def use(self, controller: Controller) -> None:
        """Put another controller at work, between two steps; it begins as at the first."""
        self.controller, self._last = controller, None

    def get_chunk_size(self, system_state: Mapping) -> int:
        """The module's call: see `ModuleHeuristic.get_chunk_size`.

        Raises ValueError if another controller is at work: none is asked in these terms.
        """
        if not isinstance(self.controller, ModuleHeuristic):
            raise ValueError(
                f"get_chunk_size is the module's heuristic, this one runs "
                f"{type(self.controller).__name__}: read token_budget, or leave out controller"
            )
        return self.controller.get_chunk_size(system_state)

    # --- What an engine calls ---

    def schedule(self) -> Batch:
        """The policy's next batch, under a budget that was chosen for it."""
        policy = self.policy
        state = look(
            policy, self.min_prefill_tokens, self.max_token_budget, policy.token_budget, self._last
        )
        tile = getattr(policy, "tile_size", 1)
        # what the policy would round down is no budget that anybody could use
        chosen = state.clamp(self.controller.choose(state)) // tile * tile
        policy.token_budget = max(chosen, tile)
        return policy.schedule()

    def observe(self, batch: Batch, seconds: float) -> None:
        """Told how long a batch took, before `update`. Nothing is learned from an empty one."""
        if not batch.num_decodes and not batch.chunks:
            return
        budget = self.policy.token_budget
        self.budgets.append(budget)
        chunks = tuple(batch.chunks)
        self._last = RanStep(seconds, batch.num_decodes, batch.decode_context, chunks, budget)
        self.controller.observe(self._last)

    @property
    def token_budget(self) -> int:
        """The present budget. To set it is the controller's: ValueError."""
        return self.policy.token_budget

    @token_budget.setter
    def token_budget(self, token_budget: int) -> None:
        raise ValueError(
            f"the controller chooses the token budget, got {token_budget}: bound it with "
            "max_token_budget, or run the policy without a controller"
        )

    @property
    def group(self) -> DecodeGroup:
        """The policy's. An engine that begins a new record puts in a new one."""
        return self.policy.group

    @group.setter
    def group(self, group: DecodeGroup) -> None:
        self.policy.group = group

    def settings(self) -> dict:
        """Names and limits, as plain values, for the record of a run."""
        own = vars(self.controller)
        plain = {name: own[name] for name in own if isinstance(own[name], int | float | str)}
        policy = self.policy.settings()
        return {
            **policy, "name": type(self).__name__, "policy": policy["name"],
            "token_budget": self.max_token_budget,
            "min_prefill_tokens": self.min_prefill_tokens,
            "controller": {"name": type(self.controller).__name__, **plain},
        }  # fmt: skip

    def __getattr__(self, name: str):
        if name == "policy":  # not there yet, as while a copy is being made
            raise AttributeError(name)
        return getattr(self.policy, name)


def _check(policy: Scheduler, max_token_budget: int, min_prefill_tokens: int) -> None:
    cuts = getattr(policy, "enable_chunked_prefill", True)
    if isinstance(policy, PrefillFirst | DecodeFirst | OrcaMixed) or not cuts:
        raise ValueError(
            f"{type(policy).__name__} runs prompts whole, whatever the budget; use TokenBudget, "
            "with chunked prefill, or StallFree"
        )
    if policy.token_budget >= NO_LIMIT:
        raise ValueError(f"{type(policy).__name__} has no token budget to turn; use StallFree")
    least = getattr(policy, "tile_size", 1)
    if max_token_budget < least:
        raise ValueError(
            f"max_token_budget must be >= {least} (the policy's tile), got {max_token_budget}"
        )
    if min_prefill_tokens < 1:
        raise ValueError(
            f"min_prefill_tokens must be >= 1, or prompts might never end, got "
            f"{min_prefill_tokens}"
        )
