"""A closed loop: a fixed number of users, each of whom reads the answer before asking again.

Arrivals follow from how fast the engine is, so a slow engine is sent less. An open source
(`source.OpenSource`) doesn't wait, and shows the queue that this one hides.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from coursekit.request import Request
from coursekit.workload.checks import count, token_counts


class ClosedLoop:
    """`num_users` users send the requests of two columns, in order, until none is left.

    num_prompt_tokens, num_output_tokens: integers >= 1, (n,). All users send their first request
    at 0 s; each sends the next one in the columns `think_s` seconds after its last has finished.
    Nothing is random: the same engine gives the same run. A source serves one run.

    next_arrival_s: seconds; `math.inf` while every user waits, and when no request is left.

    Raises ValueError for columns of unequal length or with values below 1, for num_users < 1
    and for a negative or infinite think_s.
    """

    def __init__(
        self,
        num_prompt_tokens: Sequence[int],
        num_output_tokens: Sequence[int],
        num_users: int,
        think_s: float = 0.0,
    ):
        if len(num_prompt_tokens) != len(num_output_tokens):
            raise ValueError(
                "columns must be equally long, got num_prompt_tokens "
                f"{len(num_prompt_tokens)}, num_output_tokens {len(num_output_tokens)}"
            )
        if not 0 <= think_s < math.inf:
            raise ValueError(f"think_s must be finite and >= 0 seconds, got {think_s}")
        self._num_prompt_tokens = token_counts("num_prompt_tokens", num_prompt_tokens)
        self._num_output_tokens = token_counts("num_output_tokens", num_output_tokens)
        self._think_s = float(think_s)
        self._num_sent = 0
        self._due_s = [0.0] * count("num_users", num_users)  # a heap: when each idle user sends
        self._look_ahead()

    def take(self, now_s: float) -> list[Request]:
        """The requests sent by `now_s` (seconds) and not taken yet, in order of arrival."""
        taken = []
        while self.next_arrival_s <= now_s and self.next_arrival_s < math.inf:
            index = self._num_sent
            taken.append(
                Request(
                    index,
                    heapq.heappop(self._due_s),
                    int(self._num_prompt_tokens[index]),
                    int(self._num_output_tokens[index]),
                )
            )
            self._num_sent += 1
            self._look_ahead()
        return taken

    def finished(self, request: Request, now_s: float) -> None:
        """`request` was answered at `now_s` (seconds): its user thinks, then sends again."""
        heapq.heappush(self._due_s, now_s + self._think_s)
        self._look_ahead()

    def _look_ahead(self) -> None:
        nothing_due = not self._due_s or self._num_sent == len(self._num_prompt_tokens)
        self.next_arrival_s = math.inf if nothing_due else self._due_s[0]
