"""A simulation in one call: a workload, a policy, a device and a model, by name.

It puts together the parts that `engine`, `schedulers` and `cost` hold, with the limits that a
serving engine would choose for the device. Nothing is simulated here.
"""

from __future__ import annotations

from coursekit import schedulers
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.schedulers import NAMES, Scheduler
from coursekit.trace import Trace

MEMORY_FRACTION = 0.9  # of the device's memory, for weights and KV: vLLM's default


def simulate(
    workload,
    scheduler: str = "token-budget",
    hardware: str = "a100",
    model: str = "llama-2-7b",
    token_budget: int = 512,
    max_num_seqs: int = 128,
    num_blocks: int | None = None,
    block_size: int = 16,
    jump: bool = True,
) -> Trace:
    """Run `workload` (see `coursekit.workload`) on a roofline model of the device.

    scheduler, hardware, model: names in `coursekit.schedulers.NAMES`, `coursekit.cost.DEVICES` and
    `coursekit.models.SHAPES`. token_budget: tokens of one iteration. num_blocks: KV blocks of
    `block_size` tokens; as many as fit the device's memory beside the weights if None.
    Raises ValueError for an unknown name (listing the known ones), a limit out of range, or a
    model that does not fit the device.
    """
    from coursekit.cost import RooflineCost

    cost = RooflineCost(hardware, model)
    blocks = num_blocks or num_blocks_that_fit(hardware, model, block_size)
    policy = make_scheduler(
        scheduler, token_budget=token_budget, max_num_seqs=max_num_seqs,
        kv=BlockCounter(blocks, block_size),
    )  # fmt: skip
    trace = Engine(policy, SimulatedExecutor(cost), jump).run(workload.source())
    trace.info |= {"hardware": hardware, "model": model}
    return trace


def make_scheduler(name: str, **limits) -> Scheduler:
    """The scheduler called `name` in NAMES. Raises ValueError that lists the known ones.

    The interleaved one has no budget of tokens: `token_budget` is its chunk size.
    """
    if name not in NAMES:
        raise ValueError(f"unknown scheduler {name!r}; known: {', '.join(NAMES)}")
    if name == "interleaved":
        limits["chunk_size"] = limits.pop("token_budget")
    return getattr(schedulers, NAMES[name])(**limits)


def num_blocks_that_fit(
    hardware: str, model: str, block_size: int, bytes_per_value: int = 2
) -> int:
    """KV blocks that fit beside the weights into MEMORY_FRACTION of the device's memory.

    Raises ValueError if the weights alone do not fit.
    """
    from coursekit.cost import DEVICES
    from coursekit.models import SHAPES

    shape, device = _known(SHAPES, "model", model), _known(DEVICES, "hardware", hardware)
    left = MEMORY_FRACTION * device.memory_bytes - shape.num_parameters * bytes_per_value
    blocks = int(left // (block_size * shape.kv_bytes_per_token(bytes_per_value)))
    if blocks < 1:
        raise ValueError(
            f"{model} needs {shape.num_parameters * bytes_per_value / 2**30:.0f} GiB for its "
            f"weights, {hardware} has {device.memory_bytes / 2**30:.0f} GiB; choose a larger "
            "device or a smaller model"
        )
    return blocks


def _known(registry: dict, what: str, name: str):
    if name not in registry:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(registry)}")
    return registry[name]
