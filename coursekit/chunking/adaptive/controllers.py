"""Controllers and driven schedulers by name, for configurations that hold only plain values."""

from __future__ import annotations

from pathlib import Path

from coursekit.chunking.adaptive.aimd import Aimd
from coursekit.chunking.adaptive.cost_inverse import CostInverse
from coursekit.chunking.adaptive.driver import MIN_PREFILL_TOKENS, AdaptiveChunkedPrefill
from coursekit.chunking.adaptive.fixed import FixedBudget
from coursekit.chunking.adaptive.heuristic import ModuleHeuristic
from coursekit.chunking.adaptive.state import Controller
from coursekit.schedulers.base import Scheduler

CONTROLLERS = {
    "aimd": Aimd,
    "cost-inverse": CostInverse,
    "fixed": FixedBudget,
    "heuristic": ModuleHeuristic,
}

# What a configuration may hold beside the policy's own limits.
OPTIONS = (
    "controller", "min_prefill_tokens", "profile", "itl_target_s", "base_chunk_size",
    "start", "increase", "decrease", "slack", "up", "down", "efficient",
)  # fmt: skip


def make_controller(name: str, profile: str | None = None, **options) -> Controller:
    """The controller called `name` in CONTROLLERS, with its own options.

    profile: for "cost-inverse" in place of `cost`: a recorded profile, "DEVICE/MODEL-ENGINE", or
    the path of one (see `coursekit.cost.profiling`). Raises ValueError for an unknown name or
    profile, for options that the controller does not have, and for what it refuses.
    """
    if name not in CONTROLLERS:
        raise ValueError(f"unknown controller {name!r}; known: {', '.join(CONTROLLERS)}")
    if profile is not None:
        options["cost"] = _cost(profile)
    elif name == "cost-inverse" and "cost" not in options:
        raise ValueError(
            "cost-inverse needs a profile, got none: name a recorded one, write one with "
            "`coursekit profile`, or take 'aimd', which needs to know nothing"
        )
    try:
        return CONTROLLERS[name](**options)
    except TypeError as error:
        raise ValueError(
            f"controller {name!r} can't be made of the options {sorted(options)}: {error}"
        ) from None


def drive(policy: Scheduler, options: dict) -> AdaptiveChunkedPrefill:
    """`policy` under the controller that `options`, plain values, ask for.

    options: of OPTIONS; "controller" is "cost-inverse" if missing. Raises ValueError for bad ones.
    """
    options = dict(options)
    least = options.pop("min_prefill_tokens", MIN_PREFILL_TOKENS)
    controller = make_controller(options.pop("controller", "cost-inverse"), **options)
    return AdaptiveChunkedPrefill(policy, controller, min_prefill_tokens=least)


def _cost(profile: str):
    from coursekit.cost import CalibratedCost, recorded_cost

    return CalibratedCost.load(profile) if Path(profile).is_file() else recorded_cost(profile)
