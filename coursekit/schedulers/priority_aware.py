"""Priority classes: how large a request's chunks are, and whose turn the budget is.

Source: the course module, section 5.1, for the chunk sizes by class; the shares are weighted
fair sharing with ageing. After all decodes, the rest of the token budget is divided among the
classes that have prompts to compute, in proportion to the weight of each class's oldest
request: its class's share, plus one for every `ageing_iterations` that it has been here. What a
class can't use goes to the others. Its weakness: a small chunk keeps *other* requests' gaps short
and makes its own request's first token late, so "high priority: small chunks" alone serves the
high class badly; and every class that has a prompt slows the prompts of all the others.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import chain

from coursekit.batch import Batch
from coursekit.kv_cache.block_counter import BlockCounter
from coursekit.request import Request
from coursekit.schedulers.base import Scheduler

CHUNK_SIZES = {"high": 256, "medium": 512, "low": 1024}
SHARES = {"high": 4, "medium": 2, "low": 1}


class PriorityAwareChunking(Scheduler):
    """All decodes, then the budget shared among classes, in chunks of each class's size.

    priority_chunk_sizes: class -> most tokens of one request in an iteration. shares: class ->
    weight of a new request, an integer >= 1; equal shares leave only the chunk sizes. Within a
    class it is first come, first served. Others: see `Scheduler`. Raises ValueError for a size
    or share < 1, and if the two don't name the same classes.

    No starvation: a request outweighs all that arrive (greatest share - its own share) *
    ageing_iterations iterations after it, or later. The heaviest request gets, in each
    iteration, its chunk or at least a K-th (K classes) of what the decodes leave, and never
    less than one token. So with places and KV blocks free its first token is there after, at
    most, the sum of ceil(num_prompt_tokens / least) iterations over itself and those that may
    outweigh it, where least is the smaller of the class's chunk size and that K-th. Places and
    blocks go to the heaviest that could have tokens; if it does not fit, nobody passes it.
    """

    def __init__(
        self,
        token_budget: int = 2048,
        max_num_seqs: int = 128,
        kv: BlockCounter | None = None,
        max_model_len: int | None = None,
        priority_chunk_sizes: Mapping[str, int] = CHUNK_SIZES,
        shares: Mapping[str, int] = SHARES,
        ageing_iterations: int = 64,
    ):
        super().__init__(token_budget, max_num_seqs, kv, max_model_len)
        _check_classes(priority_chunk_sizes, shares, ageing_iterations)
        self.priority_chunk_sizes = dict(priority_chunk_sizes)
        self.shares = dict(shares)
        self.ageing_iterations = ageing_iterations
        self.waiting = _ClassQueues(shares)
        self._rank: dict[Request, tuple[int, int]] = {}  # heavier requests have a smaller rank
        self._num_added = 0
        self._num_iterations_without_decodes = 0

    def settings(self) -> dict:
        own = {"priority_chunk_sizes": self.priority_chunk_sizes, "shares": self.shares}
        return {**super().settings(), **own}

    def get_chunk_size(self, request: Request) -> int:
        """Most tokens of `request` in one iteration. Raises ValueError for an unknown class."""
        if request.priority_class not in self.priority_chunk_sizes:
            raise ValueError(
                f"request {request.index} has priority_class {request.priority_class!r}, known "
                f"are {sorted(self.priority_chunk_sizes)}; use one, or give its class a size"
            )
        return self.priority_chunk_sizes[request.priority_class]

    def add_request(self, request: Request) -> None:
        self.get_chunk_size(request)
        super().add_request(request)
        # a share is a head start: all age alike from there, so ranks never change
        head_start = self.shares[request.priority_class] * self.ageing_iterations
        self._num_added += 1
        self._rank[request] = self._now - head_start, self._num_added

    def schedule(self) -> Batch:
        batch = Batch()
        self._make_room_for_decodes(batch)
        self._take_decodes(batch)
        budget = self.token_budget - batch.num_decodes
        line = list(self.catching_up)
        if not batch.preempted:
            line += self._newcomers(budget)
        line.sort(key=self._rank.get)
        for request, num_tokens in self._divide(budget, line).items():
            if num_tokens and request in self.running:
                self._take_chunk(batch, request, num_tokens)
            elif num_tokens:
                self.waiting.remove(request)
                self.kv.allocate(request, request.num_tokens)
                self._start(batch, request, num_tokens)
        self._num_iterations_without_decodes += not batch.num_decodes
        return batch

    def _divide(self, budget: int, line: list[Request]) -> dict[Request, int]:
        """How many tokens each of `line`, heaviest first, gets."""
        weights: dict[str, int] = {}
        for request in line:
            weights.setdefault(request.priority_class, self._now - self._rank[request][0])
        total = sum(weights.values())
        portions = {name: budget * weight // total for name, weight in weights.items()}
        plan = {}
        for request in line:
            plan[request] = min(self._wanted(request), portions[request.priority_class])
            portions[request.priority_class] -= plan[request]
        left = budget - sum(plan.values())
        for request in line:
            more = min(self._wanted(request) - plan[request], left)
            plan[request] += more
            left -= more
        return plan

    def _newcomers(self, budget: int) -> list[Request]:
        """Those waiting that could be admitted together, heaviest first.

        Of each class as many as could use the whole budget, and none past one that can't be.
        """
        demand = dict.fromkeys(self.shares, 0)
        for request in self.catching_up:
            demand[request.priority_class] += self._wanted(request)
        seats, num_free, newcomers = self._num_free_seats, self.kv.num_free, []
        queues = {name: iter(queue) for name, queue in self.waiting.queues.items() if queue}
        heads = {name: next(queue) for name, queue in queues.items() if demand[name] < budget}
        while heads and len(newcomers) < seats:
            request = min(heads.values(), key=self._rank.get)
            num_free -= self._num_blocks(request.num_tokens)
            if num_free < 0:
                break
            newcomers.append(request)
            name = request.priority_class
            demand[name] += self._wanted(request)
            heads[name] = next(queues[name], None) if demand[name] < budget else None
            if heads[name] is None:
                del heads[name]
        return newcomers

    def _wanted(self, request: Request) -> int:
        return min(request.num_missing_tokens, self.priority_chunk_sizes[request.priority_class])

    @property
    def _now(self) -> int:
        """Iterations so far; counted so that a stretch of decodes may be skipped at once."""
        return self.group.clock + self._num_iterations_without_decodes

    def _requeue(self, request: Request) -> None:
        insort(self.waiting.queues[request.priority_class], request, key=self._rank.get)

    def _release(self, request: Request) -> None:
        super()._release(request)
        del self._rank[request]


class _ClassQueues:
    """Waiting requests, a queue for each class; iterated and counted as one."""

    def __init__(self, classes: Mapping[str, int]):
        self.queues = {name: deque() for name in classes}

    def __len__(self) -> int:
        return sum(map(len, self.queues.values()))

    def __iter__(self) -> Iterator[Request]:
        return chain.from_iterable(self.queues.values())

    def append(self, request: Request) -> None:
        self.queues[request.priority_class].append(request)

    def remove(self, request: Request) -> None:
        self.queues[request.priority_class].remove(request)


def _check_classes(sizes: Mapping[str, int], shares: Mapping[str, int], ageing: int) -> None:
    if set(sizes) != set(shares):
        raise ValueError(
            f"priority_chunk_sizes has the classes {sorted(sizes)} and shares {sorted(shares)}: "
            "name the same in both"
        )
    for name in sizes:
        if sizes[name] < 1 or shares[name] < 1:
            raise ValueError(
                f"chunk size and share of a class must be >= 1, got {sizes[name]} and "
                f"{shares[name]} for {name!r}"
            )
    if ageing < 1:
        raise ValueError(f"ageing_iterations must be >= 1, got {ageing}")
