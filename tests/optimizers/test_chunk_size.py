"""The simulated optimizer against a look at every size, and what it refuses."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.cost import RooflineCost
from coursekit.metrics import Slo, summarize, totals
from coursekit.optimizers import ChunkSizeOptimizer, RunSlo
from coursekit.optimizers.answer import decide
from coursekit.optimizers.chunk_size import CHUNK_SIZES
from coursekit.optimizers.processes import Processes
from coursekit.optimizers.simulated import Simulation, at_rate
from coursekit.workload import Workload
from tests.optimizers.noisy_engine import NoisyEngine, load

COST = RooflineCost("a100", "llama-2-7b")
LOAD = load(20, 43, kind="documents")


def optimizer(**settings):
    return ChunkSizeOptimizer(COST, LOAD, max_num_seqs=64, **settings)


def test_the_table_is_what_the_metrics_of_each_simulation_say():
    answer = optimizer(num_blocks=4000).optimize(RunSlo(itl_s=0.06, ttft_s=20))
    assert tuple(answer.table.index) == CHUNK_SIZES and answer.table.index.name == "token_budget"
    simulation = Simulation(COST, max_num_seqs=64, num_blocks=4000)
    for size, row in answer.table.iterrows():
        trace = simulation.run(LOAD, size)
        rows = {each["metric"]: each for each in summarize(trace)}
        found = (row["value"], row["ttft_p99_s"], row["itl_p99_s"])
        expected = (totals(trace)["tokens_per_s"], rows["ttft_s"]["p99"], rows["itl_s"]["p99"])
        assert found == pytest.approx(expected)
        assert row["feasible"] == (found[1] <= 20 and found[2] <= 0.06)
    assert answer.chosen == answer.table[answer.table["feasible"]]["value"].idxmax()
    assert answer.label == COST.label


def test_why_names_the_limit_that_keeps_out_the_better_size():
    answer = optimizer().optimize(RunSlo(itl_s=0.06, ttft_s=20))
    assert answer.chosen == 512
    assert answer.binding.name == "ITL P99" and 0 < answer.binding.slack_s < 0.06
    assert answer.larger.size == 1024 and [m.name for m in answer.larger.misses] == ["ITL P99"]
    assert answer.smaller.size == 256 and answer.smaller.misses == ()
    text = answer.explain()
    for part in ("Set token budget to 512", "What binds is ITL P99", "1,024 would miss ITL P99 by"):
        assert part in text


def test_without_a_better_size_no_limit_binds():
    answer = optimizer().optimize(RunSlo(itl_s=10, ttft_s=1000))
    assert answer.binding is None and answer.chosen == answer.table["value"].idxmax()
    assert "No limit binds" in answer.explain()


def test_an_infeasible_slo_is_answered_with_the_nearest_that_is_feasible():
    slo = RunSlo(itl_s=0.006, ttft_s=2)
    answer = optimizer().optimize(slo)
    assert not answer.feasible and answer.chosen is None and math.isnan(answer.value)
    needed = answer.nearest.must_become
    assert set(needed) == {"ITL P99", "TTFT P99"}
    relaxed = RunSlo(itl_s=needed["ITL P99"], ttft_s=needed["TTFT P99"])
    again = optimizer().optimize(relaxed)
    assert again.table["feasible"][answer.nearest.size]
    worst = (answer.table["itl_p99_s"] / 0.006).combine(answer.table["ttft_p99_s"] / 2, max)
    assert answer.nearest.size == worst.idxmin()
    assert "No token budget of 7 keeps the SLO" in answer.explain()


def test_only_the_limits_that_are_missed_would_have_to_change():
    answer = optimizer().optimize(RunSlo(itl_s=0.006, ttft_s=1000))
    assert set(answer.nearest.must_become) == {"ITL P99"}


def test_goodput_counts_requests_that_keep_their_own_limits():
    slo = RunSlo(itl_s=0.06, ttft_s=20)
    own = Slo(ttft_s=3.0)
    answer = optimizer().optimize(slo, "goodput", own)
    trace = Simulation(COST, max_num_seqs=64).run(LOAD, answer.chosen)
    assert answer.value == pytest.approx(totals(trace, own)["goodput_per_s"])
    default = optimizer().optimize(slo, "goodput")
    assert default.value == pytest.approx(
        totals(Simulation(COST, max_num_seqs=64).run(LOAD, default.chosen),
               Slo(ttft_s=20, itl_s=0.06))["goodput_per_s"]
    )  # fmt: skip


def test_capacity_is_a_rate_that_holds_where_a_higher_one_does_not():
    requests, slo = load(2, 3, kind="documents"), RunSlo(itl_s=0.06, ttft_s=1)
    answer = ChunkSizeOptimizer(COST, requests, (128, 512)).optimize(slo, "capacity")
    simulation = Simulation(COST)
    for factor, held in ((1.0, True), (1.03, False)):
        trace = simulation.run(at_rate(requests, answer.value * factor), answer.chosen)
        rows = {row["metric"]: row for row in summarize(trace)}
        assert (rows["itl_s"]["p99"] <= 0.06 and rows["ttft_s"]["p99"] <= 1) == held
    assert answer.binding.name in ("ITL P99", "TTFT P99")
    assert answer.table["capacity_per_s"][answer.chosen] == answer.value


def test_capacity_where_no_rate_will_do_is_infeasible():
    requests = load(2, 3, num_requests=8)
    answer = ChunkSizeOptimizer(COST, requests, (64, 256)).optimize(RunSlo(itl_s=1e-4), "capacity")
    assert answer.chosen is None and answer.nearest.must_become["ITL P99"] > 1e-4


def test_a_limit_on_blocking_alone_holds_for_every_feasible_size():
    answer = optimizer().optimize(RunSlo(max_blocking_time_s=0.05))
    kept = answer.table["max_blocking_time_s"] <= 0.05
    assert (answer.table["feasible"] == kept).all() and answer.binding.name == "max blocking time"


def test_a_chunk_size_under_a_budget_is_another_knob_than_the_budget():
    answer = optimizer(knob="chunk_size", token_budget=1024).optimize(RunSlo(itl_s=10))
    assert answer.knob == "chunk_size" and answer.table.index[-1] == 1024
    budget = optimizer().optimize(RunSlo(itl_s=10))
    # prompts share a large budget, so small chunks of each cost little
    assert answer.table["value"][64] > 1.3 * budget.table["value"][64]
    interleaved = optimizer(scheduler="interleaved").optimize(RunSlo(itl_s=10))
    assert interleaved.knob == "chunk_size"


def test_processes_give_the_same_table():
    few = ChunkSizeOptimizer(COST, load(20, 43, num_requests=5), (64, 256))
    here = few.optimize(RunSlo(itl_s=0.06))
    with Processes(1) as processes:
        there = few.optimize(RunSlo(itl_s=0.06), executor=processes)
    pd.testing.assert_frame_equal(here.table, there.table)


def test_a_size_that_can_not_run_is_in_the_table_with_its_error():
    class Breaks:
        label = "simulated (breaks)"

        def iteration_s(self, num_decodes, decode_context, chunks):
            if sum(size for _, size, _ in chunks) > 300:
                raise RuntimeError("too large")
            return 0.01

        def decode_run_s(self, num_decodes, decode_context, num_iterations):
            return np.full(num_iterations, 0.01)

    answer = ChunkSizeOptimizer(Breaks(), LOAD).optimize(RunSlo(itl_s=1))
    assert answer.chosen == 256 and "too large" in answer.table["error"][4096]
    assert not answer.table["feasible"][4096] and not answer.table["pareto"][4096]
    assert np.isnan(answer.table["value"][4096])


def test_if_nothing_can_run_the_reason_is_told():
    tight = ChunkSizeOptimizer(COST, LOAD, num_blocks=10)
    with pytest.raises(ValueError, match="no token_budget could be run: .*KV slots, there are 160"):
        tight.optimize(RunSlo(itl_s=1))


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(1, 5), *[st.floats(0.01, 10)] * 2), min_size=1,
                     max_size=8))  # fmt: skip
def test_a_decision_is_the_best_feasible_row_or_the_nearest(rows):
    slo = RunSlo(itl_s=1, ttft_s=1)
    table = pd.DataFrame({
        "value": [float(row[0]) for row in rows], "tokens_per_s": [float(row[0]) for row in rows],
        "itl_p99_s": [row[1] for row in rows], "ttft_p99_s": [row[2] for row in rows],
    }, index=[2**k for k in range(len(rows))])  # fmt: skip
    worst = table[["itl_p99_s", "ttft_p99_s"]].max(axis=1)
    table["feasible"] = worst <= 1
    answer = decide(table, "token_budget", "throughput", slo, "simulated (drawn)")
    if not table["feasible"].any():
        assert answer.chosen is None and worst[answer.nearest.size] == worst.min()
        assert all(limit.slack_s < 0 for limit in answer.nearest.misses)
        return
    best = table[table["feasible"]]["value"].max()
    ties = table[table["feasible"] & (table["value"] == best)].index
    assert answer.chosen in ties and worst[answer.chosen] == worst[ties].min()
    better = table[table["value"] > best]
    assert (answer.binding is None) == better.empty
    assert answer.pareto.index.isin(table.index).all() and len(answer.pareto) >= 1


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"workload": Workload([], [], [])}, "a workload needs at least 1 request, got 0: add some"),
        ({"chunk_sizes": (256, 64)}, r"must be 1 or more and rise, got \(256, 64\): sort them"),
        ({"chunk_sizes": (64, 64)}, "drop repeats"),
        ({"chunk_sizes": ()}, r"must be 1 or more and rise, got \(\)"),
        ({"chunk_sizes": (-64, 64)}, "chunk_sizes must be >= 1, got -64"),
        ({"chunk_sizes": (64.5,)}, "chunk_sizes must be an integer, got 64.5: round it"),
        ({"scheduler": "lifo"}, "unknown scheduler 'lifo'; known: "),
        ({"knob": "speed"}, "knob must be one of token_budget, chunk_size for the token-budget"),
        ({"scheduler": "stall-free", "knob": "chunk_size"}, "knob must be one of token_budget for"),
        ({"knob": "chunk_size", "token_budget": 512, "chunk_sizes": (256, 1024)},
         r"chunk_sizes must be in 1..512, the token_budget, got 1024: leave it out, or raise"),
        ({"max_num_seqs": 0}, "max_num_seqs must be >= 1, got 0"),
        ({"source": 7}, "source must be a cost model, a live engine or a function .*, got int"),
        ({"source": NoisyEngine(0), "knob": "token_budget"}, "a live engine has its own scheduler"),
    ],
)  # fmt: skip
def test_what_can_not_be_searched_is_refused(settings, problem):
    settings = {"source": COST, "workload": LOAD, **settings}
    with pytest.raises(ValueError, match=problem):
        ChunkSizeOptimizer(settings.pop("source"), settings.pop("workload"), **settings)


@pytest.mark.parametrize(
    "arguments, problem",
    [
        ((None,), "slo must be a RunSlo, got None: say RunSlo"),
        ((Slo(ttft_s=1),), "slo must be a RunSlo, got Slo"),
        ((RunSlo(itl_s=1), "speed"), "unknown objective 'speed'; known: throughput, goodput, cap"),
        ((RunSlo(max_blocking_time_s=1), "goodput"), "goodput needs a limit on ITL or TTFT"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        optimizer().optimize(*arguments)
    with pytest.raises(ValueError, match=problem):
        ChunkSizeOptimizer(NoisyEngine(0), LOAD).optimize(*arguments)


def test_settings_of_a_live_search_are_not_for_a_cost_model():
    with pytest.raises(ValueError, match="num_repeats are for live engines, got a cost model"):
        optimizer().optimize(RunSlo(itl_s=1), num_repeats=2)


def test_capacity_needs_arrivals_over_time():
    at_once = Workload([0.0, 0.0], [10, 10], [2, 2])
    with pytest.raises(ValueError, match="arrivals spread over time, got all at 0 s: draw them"):
        ChunkSizeOptimizer(COST, at_once).optimize(RunSlo(itl_s=1), "capacity")
