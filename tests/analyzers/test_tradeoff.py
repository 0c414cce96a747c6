"""The sweep against the simulator and its metrics, and the verdict against a look at each point."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coursekit.analyzers.tradeoff import (
    NUM_REQUESTS,
    TOKEN_BUDGETS,
    WORKLOADS,
    Point,
    judge,
    sweep,
)
from coursekit.metrics import summarize, totals
from coursekit.simulate import simulate
from coursekit.workload import Workload, lognormal, poisson


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("scheduler", ["token-budget", "interleaved"])
def test_a_point_holds_what_the_metrics_of_its_simulation_say(workload, scheduler):
    found = sweep(scheduler=scheduler, workload=workload, request_rate=6, token_budgets=(256,))
    prompts, outputs = WORKLOADS[workload]
    requests = Workload(
        poisson(6, NUM_REQUESTS, seed=1), lognormal(NUM_REQUESTS, *prompts, seed=2),
        lognormal(NUM_REQUESTS, *outputs, seed=3),
    )  # fmt: skip
    trace = simulate(requests, scheduler, token_budget=256)
    rows = {row["metric"]: row for row in summarize(trace)}
    (point,) = found.points
    assert point == pytest.approx(
        (
            256, rows["ttft_s"]["p50"], rows["ttft_s"]["p99"], rows["itl_s"]["p99"],
            totals(trace)["output_tokens_per_s"],
        )
    )  # fmt: skip
    assert (found.num_requests, found.num_gaps) == (NUM_REQUESTS, rows["itl_s"]["n"])
    assert found.label == trace.label and found.label.startswith("simulated (")
    assert found.chunked == (scheduler == "interleaved")


def test_the_default_shows_the_trade_off():
    points = sweep().points
    assert [point.token_budget for point in points] == list(TOKEN_BUDGETS)
    ttft, itl = ([getattr(p, name) for p in points] for name in ("ttft_p99_s", "itl_p99_s"))
    assert ttft[0] > 3 * min(ttft) and itl[-1] > 3 * itl[0]


def test_the_same_settings_are_not_simulated_again():
    assert sweep(request_rate=3) is sweep(request_rate=3.0)
    assert sweep(token_budgets=(64, 128)) is sweep(token_budgets=[64, 128])
    assert sweep(request_rate=3) is not sweep(request_rate=4)


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"request_rate": 0}, "request_rate must be finite and > 0, got 0: pass requests"),
        ({"request_rate": math.inf}, "got inf"),
        ({"workload": "haiku"}, "unknown workload 'haiku'; known: chat, "),
        ({"scheduler": "lifo"}, "unknown scheduler 'lifo'; known: "),
        ({"hardware": "abacus"}, "abacus"),
        ({"model": "gpt-9"}, "gpt-9"),
        ({"hardware": "t4", "model": "llama-2-13b"}, "raise tensor_parallel or choose another|T4"),
        ({"hardware": "t4"}, "may need 4249 KV slots, there are 3776"),
        ({"token_budgets": ()}, r"must be 1 or more and rise, got \(\): sort"),
        ({"token_budgets": (256, 64)}, r"must be 1 or more and rise, got \(256, 64\): sort"),
        ({"token_budgets": (64, 64)}, "drop repeats"),
        ({"token_budgets": (0, 64)}, "token_budget must be >= 1, got 0"),
        ({"token_budgets": (64, 0.5)}, "token_budget must be an integer, got 0.5"),
    ],
)
def test_what_can_not_be_swept_is_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        sweep(**settings)


positive = st.floats(1e-3, 1e3)
drawn_points = st.lists(st.tuples(positive, positive), min_size=1, max_size=9).map(
    lambda rows: [Point(2**k, 0.0, ttft, itl, 1.0) for k, (ttft, itl) in enumerate(rows)]
)


@settings(max_examples=200, deadline=None)
@given(points=drawn_points, ttft_slo_s=positive, itl_slo_s=positive)
def test_the_verdict_is_that_of_a_look_at_each_point(points, ttft_slo_s, itl_slo_s):
    verdict = judge(points, ttft_slo_s, itl_slo_s)
    groups = {"feasible": [], "only_ttft": [], "only_itl": [], "both": []}
    for p in points:
        late, slow = p.ttft_p99_s / ttft_slo_s > 1, p.itl_p99_s / itl_slo_s > 1
        name = "both" if late and slow else "only_ttft" if late else "only_itl" if slow else ""
        groups[name or "feasible"].append(p.token_budget)
    assert {name: list(getattr(verdict, name)) for name in groups} == groups
    worst = {
        p.token_budget: max(p.ttft_p99_s / ttft_slo_s, p.itl_p99_s / itl_slo_s) for p in points
    }
    assert worst[verdict.nearest] == verdict.worst == min(worst.values())
    assert bool(verdict.feasible) == (verdict.worst <= 1)


def test_the_nearest_names_the_limit_that_it_misses():
    points = [Point(64, 1, 4.0, 0.02, 1), Point(128, 1, 1.5, 0.02, 1), Point(256, 1, 0.5, 0.3, 1)]
    verdict = judge(points, ttft_slo_s=1.0, itl_slo_s=0.1)
    assert (verdict.nearest, verdict.worst, verdict.binding) == (128, 1.5, "TTFT P99")
    assert verdict[:4] == ((), (64, 128), (256,), ())
    assert judge(points, 1.0, 0.29).binding == "ITL P99"
    assert judge(points[:2], 10.0, 0.021).binding == "ITL P99"


def test_a_limit_that_is_met_exactly_is_kept():
    points = [Point(64, 1, 1.0, 0.1, 1)]
    assert judge(points, 1.0, 0.1).feasible == (64,)
    assert judge(points, np.nextafter(1.0, 0), 0.1).only_ttft == (64,)


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", ["ttft_slo_s", "itl_slo_s"])
def test_an_slo_must_be_positive(name, limit):
    limits = {"ttft_slo_s": 1.0, "itl_slo_s": 0.1, name: limit}
    with pytest.raises(ValueError, match=f"{name} must be finite and > 0, got {limit}: pass sec"):
        judge([Point(64, 1, 1, 1, 1)], **limits)


def test_a_verdict_needs_points():
    with pytest.raises(ValueError, match="at least 1 point, got 0: sweep"):
        judge([], 1.0, 0.1)
