"""A simulated engine that is noisy as a real machine is: something to measure, with a known truth.

Its iterations vary one by one, some take far longer, and whole runs are a little slower or
faster. Its cost is a roofline's, which no calibrated cost can fit exactly.
"""

from __future__ import annotations

import numpy as np

from coursekit.cost import RooflineCost
from coursekit.engine import Engine
from coursekit.executors import SimulatedExecutor
from coursekit.simulate import make_scheduler
from coursekit.workload import Workload, lognormal, poisson

SIZES = (32, 64, 128, 256, 384, 512, 1024, 1536, 2048)
SPIKES, SPIKE = 0.003, 2.5  # share of iterations that take so many times as long


class NoisyCost:
    """`cost` times noise: log-normal by iteration, by run, and now and then a spike."""

    def __init__(self, cost, generator, iteration_sd: float = 0.04, run_sd: float = 0.015):
        self.cost, self.label, self.generator = cost, cost.label, generator
        self.iteration_sd = iteration_sd
        self.run_factor = float(np.exp(generator.normal(0, run_sd)))

    def iteration_s(self, num_decodes, decode_context, chunks):
        factor = self.run_factor * np.exp(self.generator.normal(0, self.iteration_sd))
        if self.generator.random() < SPIKES:
            factor *= SPIKE
        return self.cost.iteration_s(num_decodes, decode_context, chunks) * float(factor)

    def decode_run_s(self, num_decodes, decode_context, num_iterations):
        raise AssertionError("a noisy engine must be walked, iteration by iteration")


class NoisyEngine:
    """What `ChunkSizeOptimizer` asks of a live engine. runs: the sizes that were run."""

    label = "live (simulated device with noise)"

    def __init__(self, seed: int, max_token_budget: int = 2048):
        self.generator = np.random.default_rng(seed)
        self.cost = RooflineCost("a100", "llama-2-7b")
        self.max_token_budget = self.token_budget = max_token_budget
        self.runs: list[int] = []
        self.closed = False

    def run(self, source):
        assert 1 <= self.token_budget <= self.max_token_budget
        self.runs.append(self.token_budget)
        policy = make_scheduler("token-budget", token_budget=self.token_budget, max_num_seqs=64)
        cost = NoisyCost(self.cost, self.generator)
        return Engine(policy, SimulatedExecutor(cost), jump=False).run(source)

    def close(self):
        self.closed = True


def load(rate: float, seed: int, num_requests: int = 40, kind: str = "chat") -> Workload:
    """Requests of a kind: chats, or long documents with short answers."""
    prompts, outputs = {
        "chat": ((700, 1800, 16, 4000), (60, 160, 2, 250)),
        "documents": ((2500, 3800, 1000, 4000), (60, 120, 10, 200)),
    }[kind]
    return Workload(
        poisson(rate, num_requests, seed=seed),
        lognormal(num_requests, *prompts, seed=seed + 1),
        lognormal(num_requests, *outputs, seed=seed + 2),
    )
