"""Settings that put the adaptive scheduler into a server, with the controller that fits here."""

from __future__ import annotations

from coursekit.deploy.settings import Setting

SCHEDULER = "coursekit.deploy.vllm_scheduler.AdaptiveCoursekitScheduler"
CEILING = 2048  # vLLM's default budget of servers: the controller chooses below it
HERE = "coursekit/deploy/vllm_scheduler.py"


def control_for(itl_target_s: float, model: str) -> tuple[dict[str, object], str]:
    """The scheduler's options, and in words which controller it is and why.

    model: its name, as in profiles. With a profile of vLLM on this very device the budget is
    computed from costs; without, AIMD finds it by trying. Raises ValueError for a target <= 0.
    """
    from coursekit.cost.profiling import profile_name, profiles
    from coursekit.device import detect_device

    if not itl_target_s > 0:
        raise ValueError(f"itl_target_s must be > 0 seconds, got {itl_target_s}: 0.2 is a start")
    device = detect_device().label()
    name = profile_name(device, model, "vllm")
    options = {"itl_target_s": itl_target_s}
    if name in profiles():
        return options | {"controller": "cost-inverse", "profile": name}, f"by the profile {name}"
    remedy = "`coursekit profile --engine vllm` records one"
    why = f"by trying (AIMD): {device} has no profile; {remedy}"
    return options | {"controller": "aimd"}, why


def adaptive_settings(options: dict[str, object], why: str) -> tuple[Setting, ...]:
    """What the scheduler needs of `EngineArgs`. options: its own, see `control_for`."""
    return (
        Setting("scheduler_cls", SCHEDULER, f"the budget is chosen in each iteration, {why}", HERE),
        Setting("additional_config", {"coursekit": dict(options)}, "the scheduler's options", HERE),
        Setting("async_scheduling", False, "it decides on what the last iteration cost", HERE),
        Setting("enable_prefix_caching", False, "it counts the KV blocks itself, unshared", HERE),
    )
