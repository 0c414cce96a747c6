"""Controllers against hindsight: what is measured of a run, and that the best keeps its promise."""

import numpy as np
import pytest

from coursekit.analyzers.adaptive import (
    A100_TRAFFIC,
    CPU_TRAFFIC,
    SlowingExecutor,
    best_fixed,
    compare,
    oscillation,
    play,
    scenarios,
    table,
)
from coursekit.batch import Batch
from coursekit.chunking.adaptive import Aimd, CostInverse, FixedBudget, ModuleHeuristic
from coursekit.cost import RooflineCost
from coursekit.itl import itls
from coursekit.metrics import keeps

COST = RooflineCost("a100", "llama-2-7b")
BUDGETS = (128, 256, 512, 1024, 2048)
ITL_S = A100_TRAFFIC.slo.itl_s
SHORT = {scenario.name: scenario for scenario in scenarios(A100_TRAFFIC, phase_s=15.0)}


@pytest.mark.parametrize("name", SHORT)
def test_the_inverse_is_near_hindsight_and_never_worse_than_the_heuristic(name):
    runs = compare(
        SHORT[name], COST,
        {
            "inverse": lambda: CostInverse(COST, 0.9 * ITL_S, efficient=True),
            "module": ModuleHeuristic,
            "heuristic": lambda: ModuleHeuristic(itl_target_s=0.9 * ITL_S),
        },
        BUDGETS,
    )  # fmt: skip
    best, inverse, module, heuristic = runs
    assert inverse.goodput_per_s >= 0.95 * best.goodput_per_s
    assert inverse.goodput_per_s >= max(module.goodput_per_s, heuristic.goodput_per_s)
    assert inverse.num_violations == 0 and inverse.worst_itl_s <= ITL_S
    rows = table(runs)
    assert rows["regret"].iloc[0] == 0 and rows.loc["inverse", "regret"] <= 0.05
    assert rows.loc["module", "violations"] > 0


def test_a_planted_fault_shows_a_controller_that_does_not_follow_the_drift():
    drift = SHORT["drift"]
    deaf = play(drift, COST, CostInverse(COST, 0.9 * ITL_S, up=0.0, down=0.0))
    assert deaf.num_violations > 0
    assert play(drift, COST, CostInverse(COST, 0.9 * ITL_S)).num_violations == 0


def test_hindsight_is_the_best_of_the_fixed_runs():
    best, runs = best_fixed(SHORT["bursts"], COST, BUDGETS)
    assert runs[best].goodput_per_s == max(run.goodput_per_s for run in runs.values())
    assert list(runs) == list(BUDGETS) and (runs[best].budgets == best).all()


def test_the_figures_of_a_run_are_those_of_its_record():
    scenario = SHORT["bursts"]
    run = play(scenario, COST, Aimd(ITL_S), "one")
    gaps_s, weights = itls(run.trace)
    assert run.num_violations == weights[gaps_s > ITL_S].sum() and run.num_itls == weights.sum()
    assert run.slo_fraction == keeps(run.trace, scenario.slo).mean()
    assert len(run.budgets) == run.trace.num_iterations and run.name == "one"
    assert not np.isnan(run.trace.requests["finished_s"]).any()


def test_oscillation_counts_octaves_between_steps_with_prompts_while_load_stands_still():
    run = play(SHORT["steps"], COST, FixedBudget(512))
    filling = np.flatnonzero(run.trace.iterations["num_prefill_tokens"] > 0)
    assert run.oscillation == 0
    swinging = np.full(run.trace.num_iterations, 512)
    swinging[filling[::2]] = 1024
    whole = ((0.0, np.inf),)
    assert oscillation(run.trace, swinging, whole) == 1.0
    assert np.isnan(oscillation(run.trace, swinging, ((1e6, 2e6),)))


def test_a_slowing_device_is_slower_by_the_work_that_it_has_done():
    executor = SlowingExecutor(COST, lambda busy_s: 1 + busy_s)
    batch = Batch()
    batch.num_decodes, batch.decode_context = 4, 400
    once = COST.iteration_s(4, 400, ())
    assert executor.execute(batch) == once
    assert executor.execute(batch) == pytest.approx(once * (1 + once))
    assert not hasattr(executor, "cost")  # it can't be asked ahead of time


def test_scenarios_are_the_same_each_time_and_hold_what_they_say():
    again = {scenario.name: scenario for scenario in scenarios(A100_TRAFFIC, phase_s=15.0)}
    for name, scenario in SHORT.items():
        assert scenario.workload.arrival_s.tolist() == again[name].workload.arrival_s.tolist()
    long = SHORT["bursts"].workload.num_prompt_tokens >= A100_TRAFFIC.long_prompts[0]
    assert long.sum() >= 4 * 15 * A100_TRAFFIC.burst_size // 15
    assert SHORT["drift"].slowdown(0) == 1 and SHORT["drift"].slowdown(1e9) == 1.6
    assert [each.name for each in scenarios(CPU_TRAFFIC, 5.0)] == ["steps", "bursts", "drift"]
