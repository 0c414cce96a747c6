"""Each way in which a server can fail is counted as what it is, and stops nobody else."""

import pytest

from coursekit.loadtest import load_test, mixed_lengths
from tests.loadtest.scripted_server import serving

TIMEOUT_S, OUTPUT = 1.0, 6
# What the server does -> how the request ends, and how many tokens of it are kept.
ENDINGS = {
    "good": ("finished", 6),
    "in_pairs": ("finished", 6),
    "uncounted": ("finished", 6),
    "uncounted_pairs": ("finished", 3),
    "never_closes": ("finished", 6),
    "aborted": ("aborted", 6),
    "full": ("HTTP 503", 0),
    "refused": ("HTTP 400", 0),
    "broken": ("HTTP 500", 0),
    "silent": ("timed out", 0),
    "stalls": ("timed out", 2),
    "hangs_up": ("disconnected", 0),
    "breaks_off": ("disconnected", 2),
    "ends_early": ("disconnected", 2),
    "no_json": ("malformed answer", 1),
    "a_page": ("malformed answer", 0),
    "empty": ("malformed answer", 0),
    "says_error": ("error in the stream", 1),
}
LENGTH_OF = {behaviour: 10 + place for place, behaviour in enumerate(ENDINGS)}


@pytest.fixture(scope="module")
def served():
    """One run in which every behaviour is met three times, and the server that it met."""
    kinds = [(length, OUTPUT) for length in LENGTH_OF.values()]
    with serving({length: name for name, length in LENGTH_OF.items()}) as server:
        workload = mixed_lengths(3 * len(kinds), kinds, rate_per_s=300)
        yield load_test(server.url, workload, timeout_s=TIMEOUT_S), server


def outcomes_of(result, behaviour):
    length = LENGTH_OF[behaviour]
    return [outcome for outcome in result.outcomes if outcome.num_prompt_tokens == length]


@pytest.mark.parametrize("behaviour", ENDINGS)
def test_each_behaviour_ends_in_its_kind_with_the_tokens_that_came(served, behaviour):
    found = outcomes_of(served[0], behaviour)
    assert [(o.kind, o.num_output_tokens) for o in found] == 3 * [ENDINGS[behaviour]]
    assert all(o.ended_s >= o.sent_s >= 0 for o in found)
    assert all(bool(o.detail) != o.is_finished for o in found)


def test_every_request_is_in_the_record_and_only_whole_ones_finished(served):
    result = served[0]
    requests = result.trace.requests
    assert sum(result.kinds.values()) == len(result.outcomes) == result.trace.num_requests
    assert (requests["finished_s"] > 0).tolist() == [o.is_finished for o in result.outcomes]
    assert requests["num_output_tokens"].tolist() == [o.num_output_tokens for o in result.outcomes]
    assert result.kinds["finished"] == 15 and result.kinds["disconnected"] == 9


def test_a_request_asks_for_exactly_its_lengths(served):
    bodies = served[1].bodies
    assert sorted(len(body["prompt"]) for body in bodies) == sorted(3 * list(LENGTH_OF.values()))
    for body in bodies:
        assert all(type(token) is int for token in body["prompt"])
        assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (OUTPUT, True, 0)
        assert body["stream"] and body["stream_options"]["continuous_usage_stats"]
        assert body["model"] == "scripted" and "priority" not in body


def test_tokens_in_one_event_came_at_one_moment(served):
    result = served[0]
    outcome = outcomes_of(result, "in_pairs")[0]
    times_s = result.trace.token_times_s(outcome.index)
    assert outcome.num_tokens == [2, 2, 2] and len(set(times_s)) == 3 and len(times_s) == 6
    assert result.trace.info["num_tokens_in_company"] == 3 * 3


def test_answers_that_the_server_counts_otherwise_are_reported(served):
    assert served[0].trace.info["num_miscounted"] == len(outcomes_of(served[0], "uncounted_pairs"))


def test_nobody_listens():
    with serving() as server:
        url = server.url
    result = load_test(url, mixed_lengths(5, [(8, 2)]), model="m", num_users=2)
    assert result.kinds == {"no connection": 5} and result.trace.num_iterations == 0
    assert result.summary()["totals"]["requests_per_s"] == 0
    with pytest.raises(RuntimeError, match="no model is served at http://127.*coursekit serve"):
        load_test(url, mixed_lengths(5, [(8, 2)]))


@pytest.mark.parametrize("users", [None, 4])
def test_a_server_that_goes_away_takes_nothing_with_it(users):
    ended = []

    def stop_after_three(outcome):
        ended.append(outcome)
        if len(ended) == 3:
            server.stop()

    with serving(step_s=0.02) as server:
        workload = mixed_lengths(40, [(8, 3), (9, 60)], rate_per_s=100)
        result = load_test(
            server.url, workload, num_users=users, timeout_s=20, on_outcome=stop_after_three
        )
    kinds = result.kinds
    assert sum(kinds.values()) == 40 and set(kinds) == {"finished", "disconnected", "no connection"}
    cut = [o for o in result.outcomes if o.kind == "disconnected"]
    assert any(o.num_output_tokens for o in cut) and all(o.num_output_tokens < 60 for o in cut)
    for outcome in (o for o in result.outcomes if o.is_finished):
        assert outcome.num_output_tokens == outcome.max_tokens
