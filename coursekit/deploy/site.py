"""Where a recommendation is for: a device's costs, a model's shape, and the KV cache that they leave."""

from __future__ import annotations

from typing import NamedTuple

from coursekit.cost import DEVICES, RooflineCost, profiles, recorded_cost
from coursekit.cost.base import CostModel
from coursekit.models import SHAPES, ModelConfig
from coursekit.simulate import num_blocks_that_fit
from coursekit.workload import Workload

BLOCK_SIZE = 16
PROFILE_KV_BYTES = 2 * 2**30  # what the course gives vLLM on a CPU: VLLM_CPU_KVCACHE_SPACE=2


class Site(NamedTuple):
    """Where it is to run: what an iteration costs, the model's shape, and the KV cache."""

    cost: CostModel
    shape: ModelConfig
    num_blocks: int
    kv_source: str

    @property
    def num_kv_tokens(self) -> int:
        return self.num_blocks * BLOCK_SIZE

    @property
    def longest(self) -> int:
        """Most tokens of one request."""
        return min(self.shape.max_position_embeddings, self.num_kv_tokens)


def site_of(device: str, model: str, num_blocks: int | None = None) -> Site:
    """The site of a device (of DEVICES, or a recorded profile) and a model (of SHAPES).

    num_blocks: KV blocks of BLOCK_SIZE tokens; what fits if None. Raises ValueError for unknown
    names, a profile of another model, and a model that does not fit.
    """
    if model not in SHAPES:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(SHAPES)}")
    shape = SHAPES[model]
    if num_blocks is not None and num_blocks < 1:
        raise ValueError(f"num_blocks must be >= 1, got {num_blocks}: leave it out for what fits")
    if device in DEVICES:
        blocks = num_blocks or num_blocks_that_fit(device, model, BLOCK_SIZE)
        source = f"counted: 90% of {device}'s memory less the weights of {model}"
        cost = RooflineCost(device, model)
    elif device in profiles():
        if not device.split("/")[1].startswith(model):
            raise ValueError(f"profile {device!r} is not of model {model!r}: pass the one it names")
        blocks = num_blocks or int(PROFILE_KV_BYTES // (BLOCK_SIZE * shape.kv_bytes_per_token()))
        source = "counted: 2 GiB of KV cache (VLLM_CPU_KVCACHE_SPACE=2)"
        cost = recorded_cost(device)
    else:
        raise ValueError(
            f"unknown device {device!r}; known: {', '.join([*DEVICES, *profiles()])}"
        )
    return Site(cost, shape, blocks, source if num_blocks is None else "the caller's num_blocks")


def mean_length(workload: Workload, site: Site) -> float:
    """Tokens of a mean request at its end. Raises ValueError for one that the site can't hold."""
    if not len(workload):
        raise ValueError("a workload needs at least 1 request, got 0: add some")
    totals = workload.num_prompt_tokens + workload.num_output_tokens
    if totals.max() > site.longest:
        row = int(totals.argmax())
        raise ValueError(
            f"a request may have at most {site.longest} tokens with {site.shape.name} on this device, "
            f"got {totals[row]} in row {row}: shorten it, or choose another model or device"
        )
    return float(totals.mean())
