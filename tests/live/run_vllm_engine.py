"""Run as a process of its own: a real vLLM as a live engine, put through its paces.

Writes what it saw as JSON to the file named by its argument; the tests read it. One start of
the engine serves them all.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from coursekit import AdaptiveChunkedPrefill
from coursekit.chunking.adaptive import CostInverse
from coursekit.cost import recorded_cost
from coursekit.analyzers import PrefillDecodeAnalyzer
from coursekit.live import VllmEngine
from coursekit.metrics import summarize
from coursekit.workload import Workload

PROMPTS = (300, 40, 120)
NUM_TOKENS = 12


def tokens_at(engine: VllmEngine, budgets: list[int]) -> list[list[int]]:
    """Greedy tokens of the same prompts while the budget turns from step to step, if any is given."""
    sent: dict[int, list[int]] = {}
    prompts = [np.random.default_rng(n).integers(0, 40_000, n).tolist() for n in PROMPTS]
    for ids in prompts:
        sent[engine.submit(ids, NUM_TOKENS)] = []
    steps = 0
    while engine.has_requests:
        if budgets:
            engine.token_budget = budgets[steps % len(budgets)]
        for index, token in engine.step().tokens.items():
            sent[index].append(token)
        steps += 1
    return list(sent.values())


def recorded_run(engine: VllmEngine) -> dict:
    engine.token_budget = 64
    steps = []
    first = engine._next_index
    source = Workload([0, 0, 0.05], [200, 30, 90], [9, 5, 7]).source()
    for request in source.take(1.0):
        request.index += first
        engine.add_request(request)
    while engine.has_requests:
        steps.append(engine.step())
    trace = engine.trace()
    mine = trace.requests["request"] >= first
    of = {int(r): trace.chunks["num_tokens"][trace.chunks["request"] == r].sum()
          for r in trace.requests["request"][mine]}  # fmt: skip
    rows = slice(trace.num_iterations - len(steps), None)
    return {
        "label": trace.label, "info": trace.info,
        "num_steps": len(steps), "budget": 64,
        "most": max(s.num_prefill_tokens + s.num_decode_tokens for s in steps),
        "computed": [int(n) for n in of.values()],
        "output": trace.requests["num_output_tokens"][mine].tolist(),
        "tokens_of_last": len(trace.token_times_s(first + 2)),
        "ends": trace.iterations["end_s"][rows].tolist(),
        "step_ends": [s.end_s for s in steps],
        "prefill": trace.iterations["num_prefill_tokens"][rows].tolist(),
        "ttft_n": summarize(trace)[0]["n"],
        "blocks": trace.iterations["num_blocks_used"][rows].tolist(),
        "unfinished": int(np.isnan(trace.requests["finished_s"][mine]).sum()),
    }  # fmt: skip


def cancelled_run(engine: VllmEngine) -> dict:
    engine.token_budget = 32
    kept, dropped = engine.submit(20, 6), engine.submit(500, 6)
    for _ in range(3):
        engine.step()
    engine.cancel(dropped)
    seen = set()
    while engine.has_requests:
        seen |= set(engine.step().tokens)
    pool = engine.scheduler.kv_cache_manager.block_pool
    row = engine.trace().requests["request"] == dropped
    return {
        "kept_ran": kept in seen, "dropped_ran": dropped in seen,
        "in_vllm": len(engine.scheduler.requests), "free": pool.get_num_free_blocks(),
        "blocks": pool.num_gpu_blocks - 1,
        "dropped_finished": bool(~np.isnan(engine.trace().requests["finished_s"][row])[0]),
    }


def refusals(engine: VllmEngine) -> list[str]:
    said = []
    tries = [
        lambda: engine.submit(600, 700), lambda: engine.submit([1, 10**7], 2),
        lambda: setattr(engine, "token_budget", 0), lambda: setattr(engine, "token_budget", 5000),
        lambda: engine.cancel(12345),
    ]  # fmt: skip
    for attempt in tries:
        try:
            attempt()
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return [*said, f"{len(engine.requests)} held"]


def turned_run(engine: VllmEngine) -> dict:
    """The long prompt among streams at two budgets: worst step of each."""
    engine.token_budget = 512
    streams = [engine.submit(16, 400) for _ in range(3)]
    while any(engine.requests[index].num_output_tokens < 3 for index in streams):
        engine.step()
    worst = {}
    for budget in (32, 512):
        engine.token_budget = budget
        prompt, longest = engine.submit(480, 1), 0.0
        while prompt in engine.requests:
            longest = max(longest, engine.step().duration_s)
        worst[budget] = longest
    for index in streams:
        engine.cancel(index)
    return worst


def adaptive_run(engine: VllmEngine) -> dict:
    """The same tokens while a controller turns the budget; whom it was told of."""
    cost = recorded_cost("amd-epyc-2-cores/smollm2-135m-instruct-vllm")
    driver = AdaptiveChunkedPrefill(engine.scheduler.policy, CostInverse(cost, 0.05))
    engine.scheduler.policy = driver
    tokens = tokens_at(engine, [])
    return {
        "tokens": tokens, "budgets": list(driver.budgets), "has_requests": driver.has_requests,
        "model_error": driver.controller.model_error, "name": engine.trace().info["scheduler"]["name"],
    }  # fmt: skip


def analyzed(engine: VllmEngine) -> dict:
    """What the analyzer makes of it: tables, the knee, and the findings."""
    analyzer = PrefillDecodeAnalyzer.of(engine)
    prefill = analyzer.prefill_table([64, 512], [32, 128])
    decode = analyzer.decode_table([64, 900], [1, 8])
    knee = analyzer.knee([1, 2, 4, 16, 32, 64, 128, 256, 512])
    return {
        "prefill": prefill.to_dict("list"), "decode": decode.to_dict("list"),
        "label": prefill.attrs["label"], "findings": analyzer.findings(prefill, decode, knee),
        "sizes": knee.table["num_tokens"].tolist(), "seconds": knee.table["seconds"].tolist(),
        "shape": analyzer.source.config.name, "bytes_per_value": analyzer.source.bytes_per_value,
        "dtype": str(engine.engine.model_config.dtype), "left": len(engine.requests),
    }  # fmt: skip


def main() -> None:
    before = dict(os.environ)
    options = {
        "max_token_budget": 512, "max_num_seqs": 8, "max_model_len": 1024,
        "dtype": "float32",  # in bfloat16 two tokens are often equally likely, and rounding decides
    }  # fmt: skip
    engine = VllmEngine(**options, num_threads=2)
    seen = {
        "environment": dict(os.environ) == before,
        "tokens": [tokens_at(engine, budgets) for budgets in ([512], [16, 64, 300], [9])],
        "record": recorded_run(engine), "cancelled": cancelled_run(engine),
        "refusals": refusals(engine), "turned": turned_run(engine), "analyzed": analyzed(engine),
    }
    engine.close()
    engine.close()
    ours = VllmEngine(**options, num_threads=2, scheduler="stall-free")
    seen["adapted_tokens"] = [tokens_at(ours, budgets) for budgets in ([512], [16, 64, 300])]
    seen["adapted_record"] = recorded_run(ours)
    seen["adapted_cancelled"] = cancelled_run(ours)
    seen["adaptive"] = adaptive_run(ours)
    ours.close()
    with open(sys.argv[1], "w") as file:
        json.dump(seen, file)


if __name__ == "__main__":
    main()
