"""What `coursekit capacity` runs and prints: the capacity of each policy and token budget."""

from __future__ import annotations

import argparse
from functools import partial
from typing import NamedTuple

from coursekit.optimizers.capacity import Capacity, capacity_of
from coursekit.optimizers.rules import VIDUR_RULE, CapacityRule, sarathi_rule
from coursekit.optimizers.sweeps import open_executor, sweep
from coursekit.simulate import simulate
from coursekit.trace import Trace
from coursekit.workload import Workload, poisson, read_workload


class Setting(NamedTuple):
    """What differs between the searches: names and limits as `simulate` takes them."""

    scheduler: str
    token_budget: int


def simulated_capacity(
    setting: Setting,
    lengths: tuple,
    rule: CapacityRule,
    hardware: str,
    model: str,
    start_rate_per_s: float = 1.0,
    seed: int = 0,
) -> Capacity:
    """Capacity of one setting for prompts and outputs of these `lengths`, two columns.

    They arrive as a Poisson process; the same seed sends the same requests at every rate.
    """

    def serve(rate_per_s: float) -> Trace:
        arrivals = poisson(rate_per_s, len(lengths[0]), seed)
        workload = Workload(arrivals, *lengths)
        return simulate(workload, setting.scheduler, hardware, model, setting.token_budget)

    return capacity_of(serve, rule, start_rate_per_s)


def run_and_report(options: argparse.Namespace) -> int:
    """Search as the command line says, print a line per setting; 1 if one of them failed."""
    if (options.slo_tbt is None) != (options.rule == "vidur"):
        raise ValueError(
            "the rule sarathi needs --slo-tbt SECONDS, and vidur takes none, got "
            f"--rule {options.rule} and --slo-tbt {options.slo_tbt}"
        )
    rule = VIDUR_RULE if options.rule == "vidur" else sarathi_rule(options.slo_tbt)
    workload = read_workload(options.trace)
    run = partial(
        simulated_capacity, lengths=(workload.num_prompt_tokens, workload.num_output_tokens),
        rule=rule, hardware=options.hardware, model=options.model,
        start_rate_per_s=options.start_rate,
    )  # fmt: skip
    settings = [Setting(s, budget) for s in options.scheduler for budget in options.token_budget]
    with open_executor(options.dask) as executor:
        outcomes = sweep(run, settings, executor, progress=True)
    print(f"simulated ({options.hardware}, {options.model}), {len(workload)} requests a trial")
    print(f"capacity: the highest Poisson rate with {rule.name}")
    for setting, capacity, error in ((o.point, o.value, o.error) for o in outcomes):
        found = error or f"{capacity.rate_per_s:.3g} requests/s, {capacity.status}"
        print(f"{setting.scheduler:<24}{setting.token_budget:>8} tokens  {found}")
    return int(any(outcome.error for outcome in outcomes))
