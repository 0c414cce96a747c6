"""A recorded run that our own engine made, in the recorders' format: a truth that is known."""

import hashlib
import json
from pathlib import Path

import numpy as np

from coursekit.ahead import AheadEngine
from coursekit.cost.grid_files import read_grids
from coursekit.cost.kernel_grid import KernelGridCost
from coursekit.executors import SimulatedExecutor
from coursekit.kv_cache import PrefixCachingBlocks
from coursekit.schedulers import TokenBudget
from coursekit.workload import Workload
from tests.cost import grid_folder

BLOCKS, WALL_S, MONOTONIC_S, WARM_S = 60, 1.7e9, 5_000.0, 0.5
NUM_LAYERS = 30  # of smollm2-135m


def meta(prompts: Path) -> dict:
    """As much of a meta.json as is read."""
    return {
        "model": "someone/SmolLM2-135M", "vllm_version": "0.19.0", "started_at": "2031-02-03T04:05",
        "dataset_path": f"workloads/{prompts.name}",
        "dataset_hash": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        "hardware": {"device_name": "A Made One"},
        "kv_cache": {
            "num_gpu_blocks": BLOCKS + 1, "block_size": 16, "enable_prefix_caching": True,
        },
        "resolved_config": {
            "scheduler_config": {
                "max_num_batched_tokens": 256, "max_num_seqs": 16, "async_scheduling": True,
                "enable_chunked_prefill": True, "long_prefill_token_threshold": 0,
                "policy": "fcfs",
            },
            "model_config": {"max_model_len": 2048},
            "compilation_config": {
                "cudagraph_mode": [2, 1], "cudagraph_capture_sizes": [1, 8, 16, 32],
            },
        },
    }  # fmt: skip


def prompts_of(count: int, rng) -> list[list[int]]:
    """Every third one begins with all of the one before it, as a conversation goes on."""
    prompts = []
    for number in range(count):
        begin = prompts[-1][:200] if number % 3 == 2 else []
        prompts.append(begin + rng.integers(0, 1000, int(rng.integers(20, 150))).tolist())
    return prompts


def write(folder: Path, count: int = 60) -> Path:
    """Grids, prompts.jsonl, and the record of a run on them whose first iteration was slow."""
    rng = np.random.default_rng(0)
    grids = read_grids(grid_folder.write(folder))
    prompts = prompts_of(count, rng)
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"input_tok_ids": each}) + "\n" for each in prompts))
    (folder / "meta.json").write_text(json.dumps(meta(path)))
    arrivals = np.cumsum(rng.exponential(0.0005, count))
    arrivals -= arrivals[0]
    arrivals[1:] += 1.0  # after the first iteration
    outputs = rng.integers(20, 90, count)
    workload = Workload(arrivals, list(map(len, prompts)), outputs, prompt_token_ids=prompts)
    scheduler = TokenBudget(256, 16, PrefixCachingBlocks(BLOCKS, 16), 2048)
    cost = KernelGridCost(grids, NUM_LAYERS, (1, 8, 16, 32))
    trace = AheadEngine(scheduler, Slow(cost)).run(workload.source())
    rows = trace.requests
    with (folder / "requests.jsonl").open("w") as file:
        for index in range(count):
            stamp = {
                "queued_ts": arrivals[index], "scheduled_ts": rows["first_scheduled_s"][index],
                "first_token_ts": rows["first_token_s"][index],
                "last_token_ts": rows["finished_s"][index],
            }  # fmt: skip
            row = {
                "request_id": f"bench-{index}", "input_toks": len(prompts[index]),
                "output_toks": int(outputs[index]), "arrival_time": WALL_S + arrivals[index],
                **{name: MONOTONIC_S + float(value) for name, value in stamp.items()},
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return folder


class Slow(SimulatedExecutor):
    """Its first iteration takes WARM_S."""

    first = True

    def execute(self, batch) -> float:
        seconds, self.first = (WARM_S if self.first else super().execute(batch)), False
        return seconds
