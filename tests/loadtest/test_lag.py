"""A slow client is found out, and a slow server is not taken for one."""

import time

import pytest

from coursekit.loadtest import ClientLag, load_test, mixed_lengths
from tests.loadtest.scripted_server import serving


def run(step_s, on_outcome=None, rate_per_s=40):
    with serving(step_s=step_s) as server:
        workload = mixed_lengths(12, [(8, 6)], rate_per_s=rate_per_s)
        return load_test(server.url, workload, on_outcome=on_outcome)


def test_a_slow_server_is_not_blamed_on_the_client():
    result = run(step_s=0.1)
    assert not result.lag.is_too_slow(result.trace), result.lag
    assert result.lag.verdict(result.trace).startswith("the client kept up (P99: event loop")


def test_a_client_that_is_busy_elsewhere_is_found_out():
    # spread out: outcomes that come all at once would make one long stall, of which a P99 says little
    result = run(step_s=0.01, on_outcome=lambda outcome: time.sleep(0.1), rate_per_s=8)
    assert result.lag.loop_max_s > 0.08 and result.lag.is_too_slow(result.trace)
    said = result.lag.verdict(result.trace)
    assert said.startswith("THE CLIENT WAS TOO SLOW") and "from another machine" in said
    assert result.summary()["client"]["too_slow"] is True


@pytest.mark.parametrize(
    "loop_s, send_s, too_slow", [(0.001, 0.001, False), (0.03, 0.001, True), (0.001, 0.5, True)]
)
def test_either_delay_counts_beside_what_it_spoils(loop_s, send_s, too_slow):
    trace = run(step_s=0.1).trace
    lag = ClientLag(loop_s, loop_s, send_s, send_s, 100)
    assert lag.is_too_slow(trace) is too_slow


def test_delays_are_those_of_the_requests_that_were_sent():
    result = run(step_s=0.01)
    late = [o.sent_s - o.scheduled_s for o in result.outcomes]
    lag = ClientLag.of([0.0, 0.2], result.outcomes)
    assert lag.send_max_s == max(late) and lag.loop_max_s == 0.2 and lag.num_loop_samples == 2
    assert ClientLag.of([], []).loop_p99_s != 0  # nan
