"""vLLM V1's `priority` policy: the token budget, served by priority instead of arrival.

Source: `vllm/v1/core/sched/scheduler.py` and `request_queue.py` of vLLM 0.32 with
`scheduling_policy="priority"`. The waiting queue is ordered by priority value (lower first),
then arrival. If KV blocks run out, the running request with the greatest priority value, the
latest of those, loses its blocks, even if it had its tokens of this step already. Its weakness:
nobody ages, so while more urgent requests keep coming, a less urgent one may wait for ever.
"""

from __future__ import annotations

from bisect import insort

from coursekit.request import Request
from coursekit.schedulers.token_budget import TokenBudget


class PriorityTokenBudget(TokenBudget):
    """As `TokenBudget`, ordered by `Request.priority`."""

    def add_request(self, request: Request) -> None:
        super().add_request(request)
        self.waiting.pop()
        self._requeue(request)

    def _requeue(self, request: Request) -> None:
        insort(self.waiting, request, key=_rank)

    def _victim(self, queue: list[Request]) -> Request:
        return max(queue, key=_rank)


def _rank(request: Request) -> tuple[int, float, int]:
    return request.priority, request.arrival_s, request.index
