"""A run that really was, simulated: the same settings, the same arrivals, a cost model's times.

`rerun_recorded` does it for a vLLM that somebody else recorded, on kernels measured one by one;
`rerun` for a run of a live engine of ours, on a cost fitted to another run. `fidelity` says
how near they come. What of a recorded engine is set, is data, so that the worth of each piece
of its physics can be measured by setting it otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coursekit.ahead import AheadEngine
from coursekit.analyzers.recorded_run import RecordedRun
from coursekit.cost.base import CostModel
from coursekit.cost.grid_files import KernelGrids
from coursekit.cost.kernel_grid import KernelGridCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter, PrefixCachingBlocks
from coursekit.models.config import SHAPES
from coursekit.schedulers import TokenBudget
from coursekit.trace import Trace
from coursekit.workload import Workload


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What of a vLLM's configuration decides its iterations.

    num_blocks: KV blocks for requests; capture_sizes: tokens with a CUDA graph; the rest in
    vLLM's words.
    """

    max_num_batched_tokens: int
    max_num_seqs: int
    max_model_len: int
    num_blocks: int
    block_size: int
    enable_prefix_caching: bool
    async_scheduling: bool
    enable_chunked_prefill: bool
    long_prefill_token_threshold: int
    capture_sizes: tuple[int, ...]
    num_layers: int

    @classmethod
    def of(cls, meta: dict) -> EngineSettings:
        """From meta.json of a recorded run. One KV block is vLLM's own: it pads with it.

        Raises ValueError naming what the record lacks, or a scheduler or model we don't have.
        """
        try:
            resolved, kv = meta["resolved_config"], meta["kv_cache"]
            scheduler, model = resolved["scheduler_config"], resolved["model_config"]
            settings = cls(
                scheduler["max_num_batched_tokens"], scheduler["max_num_seqs"],
                model["max_model_len"], kv["num_gpu_blocks"] - 1, kv["block_size"],
                kv["enable_prefix_caching"], scheduler["async_scheduling"],
                scheduler["enable_chunked_prefill"], scheduler["long_prefill_token_threshold"],
                _capture_sizes(resolved["compilation_config"]), _num_layers(meta["model"]),
            )  # fmt: skip
        except KeyError as error:
            raise ValueError(
                f"meta.json lacks {error}, so the engine can't be set as it was; record the run "
                "with its resolved configuration"
            ) from None
        policy = scheduler.get("policy")
        if policy != "fcfs":
            raise ValueError(f"the recorded scheduler must be 'fcfs', got {policy!r}")
        return settings


def rerun_recorded(
    run: RecordedRun, grids: KernelGrids, settings: EngineSettings, warm_up: bool = True
) -> Trace:
    """Serve the run's requests by an engine set like the recorded one, on the grids' device.

    warm_up: the first iterations take as long as they took, since a fresh engine still loads
    its kernels in them; without it all are predicted.
    """
    cost = KernelGridCost(grids, settings.num_layers, settings.capture_sizes)
    blocks = PrefixCachingBlocks if settings.enable_prefix_caching else BlockCounter
    scheduler = TokenBudget(
        settings.max_num_batched_tokens, settings.max_num_seqs,
        blocks(settings.num_blocks, settings.block_size), settings.max_model_len,
        settings.long_prefill_token_threshold, settings.enable_chunked_prefill,
    )  # fmt: skip
    executor = WarmingUp(cost, run.first_iterations_s() if warm_up else ())
    engine = AheadEngine if settings.async_scheduling else _walk
    return engine(scheduler, executor).run(run.workload().source())


def rerun(measured: Trace, workload: Workload, cost: CostModel) -> Trace:
    """Serve `workload`, which `measured` is the record of, by a simulated engine set alike.

    Raises ValueError for a record that does not say how its engine was set.
    """
    set_to = measured.info.get("scheduler", {})
    names = ("token_budget", "max_num_seqs", "num_blocks", "block_size", "max_model_len")
    if missing := [name for name in names if name not in set_to]:
        raise ValueError(f"the record does not say its engine's {missing[0]}; record it anew")
    budget, seqs, num_blocks, block_size, length = (set_to[name] for name in names)
    scheduler = TokenBudget(budget, seqs, BlockCounter(num_blocks, block_size), length)
    return Engine(scheduler, SimulatedExecutor(cost)).run(workload.source())


def _walk(scheduler, executor) -> Engine:
    """An engine that asks for every iteration, as an executor that warms up needs it."""
    return Engine(scheduler, executor, jump=False)


class WarmingUp(SimulatedExecutor):
    """Takes `first_s` for its first iterations, and what `cost` says for all later ones."""

    def __init__(self, cost, first_s: Sequence[float]):
        super().__init__(cost)
        self._first_s = list(first_s)

    def execute(self, batch) -> float:
        """Seconds that the batch takes."""
        return self._first_s.pop(0) if self._first_s else super().execute(batch)


def _capture_sizes(compilation: dict) -> tuple[int, ...]:
    """Tokens with a CUDA graph; none where graphs are off."""
    off = compilation["cudagraph_mode"] in (0, None, "NONE")
    return () if off else tuple(compilation["cudagraph_capture_sizes"])


def _num_layers(model: str) -> int:
    name = model.rsplit("/", 1)[-1].lower()
    if name not in SHAPES:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(SHAPES)}")
    return SHAPES[name].num_layers
