"""What became of one request of a load test: when its tokens came, and how it ended.

Every request ends in exactly one kind: `FINISHED`, or the way in which it failed. A request
that failed keeps the tokens that had come by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import nan

FINISHED = "finished"
NO_CONNECTION = "no connection"  # nobody listens there, or the connection could not be made
TIMED_OUT = "timed out"  # not done within the request's time limit
DISCONNECTED = "disconnected"  # the connection broke before the answer's end
MALFORMED = "malformed answer"  # not a stream of completion chunks
SERVER_ERROR = "error in the stream"  # the server said so in the stream
ABORTED = "aborted"  # ended for another reason than length or a stop token
STOPPED = "stopped"  # in flight when the run was stopped or its deadline came
NOT_SENT = "not sent"  # due after that

# A refusal is named by its status, "HTTP 503".


def refusal(status: int) -> str:
    """The kind of a request that was answered with an HTTP status other than 200."""
    return f"HTTP {status}"


@dataclass(slots=True)
class Outcome:
    """One request, seen by the client; times in seconds since the start of the run.

    scheduled_s: when it was to be sent; sent_s: when it was (nan if it never was); ended_s:
    when it ended, in whatever way. moments_s, num_tokens: when an event with tokens came, and
    how many it brought, (num_events,). server_prompt_tokens, server_output_tokens: what the
    server counted, None if it did not say.
    """

    index: int
    scheduled_s: float
    num_prompt_tokens: int
    max_tokens: int
    sent_s: float = nan
    ended_s: float = nan
    kind: str = ""
    detail: str = ""
    moments_s: list[float] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    server_prompt_tokens: int | None = None
    server_output_tokens: int | None = None

    @property
    def num_output_tokens(self) -> int:
        """Tokens that came."""
        return sum(self.num_tokens)

    @property
    def is_finished(self) -> bool:
        """Whether the whole answer came."""
        return self.kind == FINISHED


def count_kinds(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many requests ended in each kind, the most frequent first."""
    return dict(Counter(outcome.kind for outcome in outcomes).most_common())
