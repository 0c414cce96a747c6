"""Sarathi-Serve's capacity experiment (OSDI 2024, figures 5 and 6), simulated.

Settings are those of the paper and of its artifact (microsoft/sarathi-serve, branch
osdi-sarathi-serve, folder osdi-experiments). What is not public is drawn or assumed: lengths
come from log-normal distributions with the published median and P90; a pipeline is run as vLLM
V0 does (`coursekit.pipeline`), where the artifact has one queue for all stages; activations
take no memory. The cost model was fitted to times of iterations, never to a capacity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coursekit.cost import DEVICES, Hardware, RooflineCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import BlockCounter
from coursekit.models import SHAPES, ModelConfig
from coursekit.optimizers.capacity import Capacity, capacity_of
from coursekit.optimizers.rules import sarathi_rule
from coursekit.pipeline import PipelineEngine
from coursekit.schedulers import OrcaMixed, PrefillFirst, Scheduler, StallFree
from coursekit.schedulers.base import NO_LIMIT
from coursekit.trace import Trace
from coursekit.workload import Workload, lognormal, poisson

NUM_REQUESTS = 2048  # of a trial
TIME_LIMIT_S = 1800.0  # of a trial: the artifact's `--time-limit` of 30 minutes
MEMORY_FRACTION = 0.85  # of the devices' memory, for weights and KV: the artifact's default
BLOCK_SIZE = 16
PCIE_BYTES_PER_S = 32e9  # PCIe 4.0 x16, one direction: the link between pairs of devices
ETHERNET_BYTES_PER_S = 12.5e9  # 100 Gb/s between Falcon's two nodes
START_RATE_PER_S = 0.5  # of the search
EFFICIENCY = "sarathi-serving"  # of coursekit.cost.EFFICIENCIES

# Sizes from its config.json. Its feed-forward has two matrices of 14848 x 59392; ours has three,
# so they are made as large as those two together. Too few parameters: 0.5%.
FALCON_180B = ModelConfig("falcon-180b", 65024, 14848, 39595, 80, 232, 8, 64, 2048,
                          tie_word_embeddings=True)  # fmt: skip


class Lengths(NamedTuple):
    """Tokens: median and P90 of prompts and outputs, and what both together are cut to."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    most: int


WORKLOADS = {
    "openchat": Lengths((1730, 5696), (415, 834), 8192),
    "arxiv": Lengths((7059, 12985), (208, 371), 16384),
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on its devices, and how the paper ran it.

    slo_s, budget: by "strict" and "relaxed", P99 TBT in seconds and Sarathi's token budget;
    max_num_seqs: of vLLM and Sarathi, and of Orca; stage_bytes_per_s: the link between stages.
    """

    model: ModelConfig
    hardware: Hardware
    tensor_parallel: int
    stages: int
    slo_s: dict[str, float]
    budget: dict[str, int]
    max_num_seqs: int
    orca_num_seqs: int
    stage_bytes_per_s: float = PCIE_BYTES_PER_S


def _over_pcie(name: str) -> Hardware:
    """A device of which more than two work on a layer: they are NVLinked in pairs only."""
    return replace(DEVICES[name], link_bytes_per_s=PCIE_BYTES_PER_S)


DEPLOYMENTS = {
    "mistral-7b": Deployment(
        SHAPES["mistral-7b"], DEVICES["a100-pcie"], 1, 1,
        {"strict": 0.1, "relaxed": 0.5}, {"strict": 512, "relaxed": 2048}, 128, 16,
    ),
    "yi-34b": Deployment(
        SHAPES["yi-34b"], DEVICES["a100-pcie"], 2, 1,
        {"strict": 0.2, "relaxed": 1.0}, {"strict": 512, "relaxed": 2048}, 128, 16,
    ),
    "llama-2-70b": Deployment(
        SHAPES["llama-2-70b"], _over_pcie("a40"), 4, 2,
        {"strict": 1.0, "relaxed": 5.0}, {"strict": 512, "relaxed": 1536}, 128, 8,
    ),
    "falcon-180b": Deployment(
        FALCON_180B, _over_pcie("a100-pcie"), 4, 2,
        {"strict": 1.0, "relaxed": 5.0}, {"strict": 512, "relaxed": 2048}, 128, 8,
        ETHERNET_BYTES_PER_S,
    ),
}  # fmt: skip

# Figure 8: Falcon without a pipeline, each layer on all eight devices, over the Ethernet link.
FALCON_TP8 = replace(
    DEPLOYMENTS["falcon-180b"], tensor_parallel=8, stages=1,
    hardware=replace(DEVICES["a100-pcie"], link_bytes_per_s=ETHERNET_BYTES_PER_S),
)  # fmt: skip

SCHEDULERS = ("orca", "vllm", "sarathi")
SLOS = ("strict", "relaxed")


class Point(NamedTuple):
    """One bar of the figures, by names: of DEPLOYMENTS, WORKLOADS, SLOS and SCHEDULERS."""

    model: str
    workload: str
    slo: str
    scheduler: str


def points() -> list[Point]:
    """All 48 of them."""
    return [
        Point(model, workload, slo, scheduler)
        for model in DEPLOYMENTS for workload in WORKLOADS for slo in SLOS
        for scheduler in SCHEDULERS
    ]  # fmt: skip


def draw_lengths(
    workload: str, n: int, seed: int = 0, file: Path | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and output tokens of `n` requests, (n,) each.

    file: a CSV with num_prefill_tokens and num_decode_tokens, of which `n` rows are drawn, in
    place of the fitted distributions. As in the artifact, what is over the cut is taken from
    both lengths in proportion.
    """
    lengths = WORKLOADS[workload]
    if file is None:
        prompts = lognormal(n, *lengths.prompt, low=1, high=10**6, seed=seed)
        outputs = lognormal(n, *lengths.output, low=2, high=10**6, seed=seed + 1)
    else:
        rows = np.genfromtxt(file, delimiter=",", names=True)
        rows = np.random.default_rng(seed).choice(rows, n)
        prompts, outputs = rows["num_prefill_tokens"], rows["num_decode_tokens"]
    total = prompts + outputs
    over = np.maximum(total - lengths.most, 0)
    cut = [np.maximum(part - np.ceil(over * part / total), 1) for part in (prompts, outputs)]
    return cut[0].astype(np.int64), cut[1].astype(np.int64)


def make_schedulers(
    deployment: Deployment, scheduler: str, budget: int, most: int
) -> list[Scheduler]:
    """One per pipeline stage, with its share of the KV blocks and of the places.

    scheduler: one of SCHEDULERS; budget: Sarathi's; most: tokens of the longest request, which
    is vLLM's budget as well. The artifact's Orca sets `most` tokens of KV aside for each
    request; ours what the request needs: its places run out first either way.
    """
    model, stages = deployment.model, deployment.stages
    memory = deployment.hardware.memory_bytes * deployment.tensor_parallel * stages
    left = MEMORY_FRACTION * memory - model.num_parameters * 2
    num_blocks = int(left // (BLOCK_SIZE * model.kv_bytes_per_token())) // stages
    policy, token_budget, places = {
        "vllm": (PrefillFirst, most, deployment.max_num_seqs),
        "orca": (OrcaMixed, NO_LIMIT, deployment.orca_num_seqs),
        "sarathi": (StallFree, budget, deployment.max_num_seqs),
    }[scheduler]
    return [
        policy(token_budget, places // stages, BlockCounter(num_blocks, BLOCK_SIZE))
        for _ in range(stages)
    ]


def stage_costs(deployment: Deployment) -> list[RooflineCost]:
    """The cost of each stage: an equal share of the layers, the output projection in the last."""
    model, stages = deployment.model, deployment.stages
    share = replace(model, num_layers=model.num_layers // stages)
    shapes = [replace(share, vocab_size=1)] * (stages - 1) + [share]
    return [
        RooflineCost(deployment.hardware, shape, deployment.tensor_parallel, EFFICIENCY)
        for shape in shapes
    ]


def make_pipeline(deployment: Deployment, schedulers: list[Scheduler]) -> PipelineEngine:
    """The engine of a deployment with more than one stage."""
    costs = stage_costs(deployment)
    link = deployment.stage_bytes_per_s * costs[0].efficiency.link
    return PipelineEngine(schedulers, costs, send_s=2 * deployment.model.hidden_size / link)


def serve(
    deployment: Deployment, schedulers: list[Scheduler], workload: Workload
) -> list[Trace]:
    """One run of at most TIME_LIMIT_S, simulated: the record of each scheduler."""
    source = workload.source()
    if deployment.stages > 1:
        return make_pipeline(deployment, schedulers).run(source, TIME_LIMIT_S)
    executor = SimulatedExecutor(stage_costs(deployment)[0])
    return [Engine(schedulers[0], executor).run(source, TIME_LIMIT_S)]


def capacity_of_point(
    point: Point,
    num_requests: int = NUM_REQUESTS,
    seed: int = 0,
    file: Path | None = None,
    deployment: Deployment | None = None,
) -> Capacity:
    """The capacity of one bar by the paper's rule.

    file: see `draw_lengths`; deployment: in place of the paper's for the point's model.
    """
    deployment = deployment or DEPLOYMENTS[point.model]
    most = WORKLOADS[point.workload].most
    lengths = draw_lengths(point.workload, num_requests, seed, file)
    budget = deployment.budget[point.slo]

    def run(rate_per_s: float) -> list[Trace]:
        arrivals = poisson(rate_per_s, num_requests, seed + 2)
        schedulers = make_schedulers(deployment, point.scheduler, budget, most)
        return serve(deployment, schedulers, Workload(arrivals, *lengths))

    return capacity_of(run, sarathi_rule(deployment.slo_s[point.slo]), START_RATE_PER_S)


def idle_share(point: Point, rate_per_s: float, seed: int = 0) -> float:
    """Share of the time in which a stage of the pipeline stands idle, over a run at a rate.

    At a rate far above the capacity nothing but the batches themselves leaves a stage idle.
    Raises ValueError for a deployment without a pipeline.
    """
    deployment, most = DEPLOYMENTS[point.model], WORKLOADS[point.workload].most
    if deployment.stages == 1:
        raise ValueError(f"model must be one with a pipeline, got {point.model!r}: it has 1 stage")
    lengths = draw_lengths(point.workload, NUM_REQUESTS, seed)
    workload = Workload(poisson(rate_per_s, NUM_REQUESTS, seed + 2), *lengths)
    budget = deployment.budget[point.slo]
    schedulers = make_schedulers(deployment, point.scheduler, budget, most)
    engine = make_pipeline(deployment, schedulers)
    traces = engine.run(workload.source(), TIME_LIMIT_S)
    end_s = max(trace.iterations["end_s"][-1] for trace in traces)
    return float(1 - np.mean(engine.busy_s) / end_s)
