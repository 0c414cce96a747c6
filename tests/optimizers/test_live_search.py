"""The frugal search on engines with noise whose truth is known, and on our own live engine."""

import numpy as np
import pytest

from coursekit.live import TorchEngine
from coursekit.optimizers import ChunkSizeOptimizer, RunSlo
from coursekit.optimizers.rehearsal import NoisyCost, calibrate
from coursekit.optimizers.simulated import Simulation
from coursekit.schedulers import InterleavedPrefillDecodeScheduler, TokenBudget
from coursekit.workload import Workload
from tests.optimizers.frugal_study import CASES, try_once
from tests.optimizers.noisy_engine import SIZES, NoisyEngine, load

SLO = RunSlo(itl_s=0.06, ttft_s=30)
LOAD = load(100, 3)


@pytest.mark.parametrize(
    "case",
    ["chats at once, throughput, ITL P99 60 ms", "chats at once, throughput, ITL P99 15 ms",
     "documents at once, nothing feasible"],
)  # fmt: skip
def test_it_finds_the_truth_in_a_third_of_the_measurements(case):
    found = try_once(CASES[case], seed=100)
    assert found.right, found
    assert found.num_runs <= found.num_exhaustive / 3


def test_a_size_is_not_ruled_out_by_forecast_when_its_own_run_kept_the_slo():
    """Here the forecast puts the P99 of the best size over its limit, and one run under it."""
    assert try_once(CASES["chats at once, throughput, ITL P99 15 ms"], seed=1008).right


def test_a_search_without_noise_is_the_exhaustive_one():
    engine = NoisyEngine(0)
    engine.run = lambda source: Simulation(engine.cost, max_num_seqs=64).run(
        LOAD if source.next_arrival_s < np.inf else None, engine.token_budget
    )
    answer = ChunkSizeOptimizer(engine, LOAD, SIZES).optimize(SLO)
    every = ChunkSizeOptimizer(engine.cost, LOAD, SIZES, max_num_seqs=64).optimize(SLO)
    assert every.table["value"][answer.chosen] >= 0.97 * every.value
    assert every.table["feasible"][answer.chosen]


def test_the_table_says_what_was_run_and_how_sure_it_is():
    engine, told = NoisyEngine(1), []
    answer = ChunkSizeOptimizer(engine, LOAD, SIZES).optimize(
        SLO, on_run=lambda number, size: told.append((number, size))
    )
    warm_up, *runs = engine.runs
    assert warm_up == 2048 and [size for _, size in told] == runs
    assert [number for number, _ in told] == list(range(1, len(runs) + 1))
    table = answer.table
    assert table["num_runs"].to_dict() == {size: runs.count(size) for size in SIZES}
    assert table["num_runs"][answer.chosen] >= 2
    assert (table["ci_low"] < table["value"]).all() and (table["value"] < table["ci_high"]).all()
    assert table["sd"][answer.chosen] < table["sd"][SIZES[0] if runs.count(SIZES[0]) == 0 else 2048]
    assert ((table["p_feasible"] >= 0.5) == table["feasible"]).all()
    assert answer.label == engine.label
    assert f"after {len(runs)} measurements" in answer.explain()


def test_the_engine_is_left_as_it_was_and_a_made_one_is_closed():
    engine, made = NoisyEngine(1), []
    engine.token_budget = 300
    ChunkSizeOptimizer(engine, LOAD, (64, 512)).optimize(SLO, num_repeats=3)
    assert engine.token_budget == 300 and not engine.closed

    def make():
        made.append(NoisyEngine(2))
        return made[-1]

    ChunkSizeOptimizer(make, LOAD, (64, 512)).optimize(SLO)
    assert len(made) == 1 and made[0].closed


def test_it_stops_at_what_it_is_allowed():
    for most in (2, 4):
        engine = NoisyEngine(3)
        answer = ChunkSizeOptimizer(engine, LOAD, SIZES).optimize(SLO, max_runs=most)
        assert len(engine.runs) <= most + 1 and answer.feasible  # and the warm-up


def test_a_verdict_within_the_noise_says_so():
    case = CASES["chats at once, throughput, ITL P99 60 ms"]
    itl_s = 0.0235  # about what a budget of 256 has
    answer = ChunkSizeOptimizer(NoisyEngine(5), case.workload, SIZES).optimize(
        RunSlo(itl_s=itl_s), max_runs=3
    )
    assert 0.05 < answer.table["p_feasible"][256] < 0.95


def test_capacity_is_searched_with_live_runs():
    requests, slo = load(2, 3, num_requests=30, kind="documents"), RunSlo(itl_s=0.06, ttft_s=1)
    engine, sizes = NoisyEngine(0), (64, 256, 512)
    answer = ChunkSizeOptimizer(engine, requests, sizes).optimize(slo, "capacity")
    every = ChunkSizeOptimizer(engine.cost, requests, sizes, max_num_seqs=64).optimize(
        slo, "capacity"
    )
    assert every.table["value"][answer.chosen] >= 0.95 * every.value
    assert answer.table["num_runs"].sum() <= 3


def test_noise_is_drawn_from_what_was_measured():
    engine = NoisyEngine(4)
    engine.token_budget = 256
    calibration = calibrate([engine.run(LOAD.source())], "here")
    assert 0.02 < calibration.alone.std() < 0.3  # 4% by iteration, and spikes
    noisy = calibration.noisy(seed=0)
    chunk = ((None, 200, 100),)
    times = np.array([noisy.iteration_s(4, 400, chunk) for _ in range(3000)])
    ratios = times / calibration.cost.iteration_s(4, 400, chunk)
    assert ratios.mean() == pytest.approx(calibration.with_chunks.mean(), rel=0.01)
    assert len(np.unique(NoisyCost(calibration.cost, np.ones(3), np.ones(3), 0).decode_run_s(2, 9, 5)
                         / calibration.cost.decode_run_s(2, 9, 5))) == 1  # fmt: skip


@pytest.mark.parametrize(
    "sizes, settings, problem",
    [
        ((64, 4096), {}, "chunk_sizes must be in 1..2048, the engine's max_token_budget, got 4096"),
        ((64, 256), {"num_repeats": 0}, "num_repeats must be >= 1, got 0"),
        ((64, 256), {"max_runs": 1}, "max_runs must be >= 2, two sizes calibrate a cost, got 1"),
        ((64, 256), {"confidence": 1.0}, r"confidence must be in \[0.5, 1\), got 1.0"),
    ],
)
def test_what_can_not_be_searched_is_refused(sizes, settings, problem):
    with pytest.raises(ValueError, match=problem):
        ChunkSizeOptimizer(NoisyEngine(0), LOAD, sizes).optimize(SLO, **settings)


def test_capacity_of_a_live_engine_can_not_be_judged_by_blocking():
    with pytest.raises(ValueError, match="can't be judged by max_blocking_time_s"):
        ChunkSizeOptimizer(NoisyEngine(0), LOAD, (64, 256)).optimize(
            RunSlo(max_blocking_time_s=0.1), "capacity"
        )


def test_records_that_tell_no_cost_are_refused():
    alike = Workload([0.0], [1], [200])  # no chunk of two tokens or more
    with pytest.raises(ValueError, match="no measured batch has a chunk of 2 tokens or more"):
        ChunkSizeOptimizer(NoisyEngine(0), alike, (64, 256)).optimize(SLO)


@pytest.mark.parametrize("scheduler, knob", [
    (TokenBudget(256, max_num_seqs=8), "token_budget"),
    (InterleavedPrefillDecodeScheduler(256, max_num_seqs=8), "chunk_size"),
])  # fmt: skip
def test_our_own_engine_is_searched(tiny_model, scheduler, knob):
    engine = TorchEngine(tiny_model, scheduler, max_model_len=500, max_num_tokens=256)
    requests = Workload([0.0] * 6, [300, 40, 200, 120, 250, 30], [12, 30, 8, 20, 10, 30])
    answer = ChunkSizeOptimizer(engine, requests, (8, 32, 128, 256)).optimize(RunSlo(itl_s=5.0))
    assert answer.knob == knob and answer.label.startswith("live (")
    # a run of tokens that nobody waits for, 300 tokens in chunks of 8, is slower than in one
    assert answer.chosen > 8 and answer.table["num_runs"].sum() <= 4
    assert answer.table["value"].notna().all()


def test_two_runs_of_a_live_engine_leave_two_records(tiny_model):
    engine = TorchEngine(tiny_model, TokenBudget(64, max_num_seqs=4), max_model_len=200)
    requests = Workload([0.0, 0.0, 0.0], [90, 20, 50], [6, 12, 9])
    first, second = (engine.run(requests.source()) for _ in range(2))
    for trace in (first, second):
        assert trace.requests["request"].tolist() == [0, 1, 2]
        assert trace.requests["num_output_tokens"].tolist() == [6, 12, 9]
        assert (np.diff(trace.iterations["start_s"]) > 0).all()
        assert [len(trace.token_times_s(index)) for index in range(3)] == [6, 12, 9]
    for name in ("num_prefill_tokens", "num_decode_tokens"):
        assert (first.iterations[name] == second.iterations[name]).all()
