"""Reading /metrics: histogram quantiles within their bucket, counters that survive a restart, windows."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coursekit.monitor.metrics_text import (
    Histogram, Scrape, add_up, bucket_percentile, count, gained, has_restarted, histogram, read_metrics,
)  # fmt: skip
from coursekit.monitor.vllm_metrics import SPREADS, Window

SAMPLE = (Path(__file__).parent / "vllm_0.32_metrics.txt").read_text()
thorough = settings(max_examples=200, deadline=None, derandomize=True)


def page(tokens: float, gaps_s=(), started: float = 1.0, running: int = 0) -> str:
    """A small /metrics page as vLLM writes it."""
    bounds = (0.1, 0.2, 0.4, math.inf)
    lines = [
        "# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started}",
        "# TYPE vllm:num_requests_running gauge", f'vllm:num_requests_running{{engine="0"}} {running}',
        "# TYPE vllm:generation_tokens_total counter", f'vllm:generation_tokens_total{{engine="0"}} {tokens}',
        "# TYPE vllm:inter_token_latency_seconds histogram",
    ]  # fmt: skip
    for bound in bounds:
        label = "+Inf" if bound == math.inf else bound
        many = sum(gap <= bound for gap in gaps_s)
        lines.append(f'vllm:inter_token_latency_seconds_bucket{{engine="0",le="{label}"}} {many}')
    lines.append(f'vllm:inter_token_latency_seconds_sum{{engine="0"}} {sum(gaps_s)}')
    lines.append(f'vllm:inter_token_latency_seconds_count{{engine="0"}} {len(gaps_s)}')
    return "\n".join(lines) + "\n"


# --- Histograms ---


@thorough
@given(
    values=st.lists(st.floats(1e-4, 50), min_size=1, max_size=200),
    bounds=st.lists(st.floats(1e-3, 20), min_size=1, max_size=12, unique=True),
    percent=st.floats(0.1, 100),
)
def test_the_true_percentile_lies_in_the_bucket_that_is_named(values, bounds, percent):
    bounds = (*sorted(bounds), math.inf)
    counts = tuple(float(sum(value <= bound for value in values)) for bound in bounds)
    found = bucket_percentile(Histogram(bounds, counts, sum(values)), percent)
    truth = sorted(values)[max(0, math.ceil(percent / 100 * len(values) - 1e-9) - 1)]
    assume(abs(percent / 100 * len(values) - round(percent / 100 * len(values))) > 1e-6)
    assert found.low <= truth <= found.high
    assert found.low <= found.value <= found.high


def test_a_percentile_is_interpolated_as_prometheus_does_it():
    found = bucket_percentile(Histogram((0.1, 0.2, math.inf), (50, 100, 100), 12.0), 75)
    assert found == pytest.approx((0.15, 0.1, 0.2))


def test_beyond_the_last_bound_only_that_is_known():
    found = bucket_percentile(Histogram((0.1, 0.2, math.inf), (50, 60, 100), 12.0), 99)
    assert found == (0.2, 0.2, math.inf)


def test_an_empty_histogram_knows_nothing():
    assert math.isnan(bucket_percentile(Histogram((0.1, math.inf), (0, 0), 0.0), 50).value)


# --- Counters ---


@thorough
@given(
    lives=st.lists(st.lists(st.integers(0, 50), min_size=2, max_size=6), min_size=1, max_size=5),
    tell_start=st.booleans(),
)
def test_gains_add_up_over_restarts(lives, tell_start):
    """Each life of the server counts from 0. What was gained after the last look at a life is lost; but
    without a start time a restart is seen only where the count fell."""
    scrapes, seen = [], 0
    for life, steps in enumerate(lives):
        total = 0
        for step in steps:
            total += step
            text = page(total, started=float(life) if tell_start else 1.0)
            scrapes.append(read_metrics(text, float(len(scrapes) + 1)))
        seen += total - (steps[0] if life == 0 else 0)
    gain = add_up(gained(*pair) for pair in zip(scrapes, scrapes[1:]))
    found = count(gain, "vllm:generation_tokens_total")
    assert found == seen if tell_start else found <= seen


def test_a_restart_is_seen_by_a_count_that_fell():
    before, after = read_metrics(page(100), 1), read_metrics(page(30), 2)
    assert has_restarted(before, after)
    assert count(gained(before, after), "vllm:generation_tokens_total") == 30


def test_a_restart_is_seen_by_the_start_time_even_if_the_count_is_higher():
    before, after = read_metrics(page(100), 1), read_metrics(page(130, started=2.0), 2)
    assert count(gained(before, after), "vllm:generation_tokens_total") == 130


def test_the_same_process_has_not_restarted():
    assert not has_restarted(read_metrics(page(100), 1), read_metrics(page(100), 2))


@pytest.mark.parametrize("text", ["", "<html>hello</html>", "\x00\x01", "# nothing\n", "a{b= 1\n"])
def test_what_is_no_page_of_metrics_is_refused(text):
    with pytest.raises(ValueError, match="is the URL right"):
        read_metrics(text)


# --- vLLM's page ---


def test_a_recorded_page_of_vllm_is_understood():
    window = Window()
    window.add(Scrape(0.0, {key: 0.0 for key in read_metrics(SAMPLE).counts}))
    window.add(read_metrics(SAMPLE, 10.0))
    reading = window.reading("vLLM")
    assert all(getattr(reading, name).n for name in SPREADS)
    assert (reading.itl.n, reading.num_output_tokens, reading.num_prefill_tokens) == (116, 120, 2404)
    assert reading.num_kv_tokens == 728 * 128
    assert (reading.itl.p99.low, reading.itl.p99.high) == (0.2, 0.3)


def test_vllm_counts_a_prompt_whole_with_the_iteration_that_ends_it():
    """So that nobody reads the budget off `iteration_tokens_total`: it was 512 when this was recorded."""
    found = histogram(read_metrics(SAMPLE).counts, "vllm:iteration_tokens_total")
    assert bucket_percentile(found, 99).low == 512


# --- Windows ---


def test_a_window_forgets_what_is_old():
    window = Window(window_s=10)
    for second, tokens in ((0, 0), (5, 100), (10, 110), (15, 120), (20, 130)):
        window.add(read_metrics(page(tokens), float(second)))
    assert window.reading("vLLM").num_output_tokens == 30
    assert window.reading("vLLM").span_s == 15


def test_a_window_counts_restarts_and_goes_on():
    window = Window()
    for second, (tokens, started) in enumerate(((50, 1.0), (80, 1.0), (20, 2.0), (25, 2.0))):
        window.add(read_metrics(page(tokens, [0.15] * int(tokens), started), float(second)))
    reading = window.reading("vLLM")
    assert (reading.num_output_tokens, reading.itl.n, reading.num_restarts) == (55, 55, 1)
    assert reading.output_tokens_per_s == pytest.approx(55 / 3)


def test_a_window_holds_a_bounded_number_of_looks():
    window = Window(window_s=1e9, max_looks=20)
    for second in range(200):
        window.add(read_metrics(page(second), float(second)))
    assert window.num_looks == 20


def test_before_the_second_look_nothing_was_gained():
    window = Window()
    window.add(read_metrics(page(1000, running=4), 0.0))
    reading = window.reading("vLLM")
    assert reading.itl.n == 0 and math.isnan(reading.output_tokens_per_s)
    assert reading.num_running == 4


def test_looks_that_do_not_follow_each_other_are_refused():
    window = Window()
    window.add(read_metrics(page(1), 5.0))
    with pytest.raises(ValueError, match="must follow"):
        window.add(read_metrics(page(2), 5.0))


def test_mean_levels_are_over_the_looks():
    window = Window()
    for second, running in enumerate((9, 2, 4)):
        window.add(read_metrics(page(1, running=running), float(second)))
    assert window.reading("vLLM").num_running == np.mean([2, 4])
