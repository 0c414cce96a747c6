"""The requests that decode one token in every step, advanced all at once.

Between two events a decoding request changes in one way only: one more token. So the group
keeps a clock instead of touching its members: each remembers the clock at which it entered,
and everything else, tokens, KV blocks, when it will finish, follows by subtraction. A step
costs the same for 1 member and for 1,000.
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush

from coursekit.request import Request


class DecodeGroup:
    """Members each have all their tokens computed but the last, and run one per step.

    size: number of members; context: sum of their computed tokens; clock: steps so far; runs:
    columns request, first step and number of tokens of each member's stay, written as it leaves.
    """

    def __init__(self, block_size: int):
        self.block_size = block_size
        self.clock = 0
        self.size = 0
        self.context = 0
        # how many members need a new KV block in a step at clock c: entry c % block_size
        self._crossing = [0] * block_size
        self.runs = array("q"), array("q"), array("q")
        self._finishing: list[tuple[int, int, Request]] = []  # (clock, running_order, member)

    def add(self, request: Request) -> None:
        """Take in a request with exactly one token not computed."""
        clock = self.clock
        request.entry_clock = clock
        computed = request.num_computed_tokens
        self.size += 1
        self.context += computed
        self._crossing[(clock - computed) % self.block_size] += 1
        finish = clock + request.max_tokens - request.num_output_tokens
        heappush(self._finishing, (finish, request.running_order, request))

    def num_steps_of(self, request: Request) -> int:
        """Steps since a member entered; 0 for a request that is no member."""
        return self.clock - request.entry_clock if request.entry_clock >= 0 else 0

    def remove(self, request: Request) -> None:
        """Take a member out, its own state brought up to date."""
        steps = self.clock - request.entry_clock
        if steps:
            for column, value in zip(self.runs, (request.index, request.entry_clock, steps)):
                column.append(value)
        self._crossing[(request.entry_clock - request.num_computed_tokens) % self.block_size] -= 1
        request.num_computed_tokens += steps
        request.num_output_tokens += steps
        request.num_blocks = -(-request.num_computed_tokens // self.block_size)
        request.entry_clock = -1
        self.size -= 1
        self.context -= request.num_computed_tokens

    def num_blocks_needed(self) -> int:
        """KV blocks that the next step of all members takes."""
        return self._crossing[self.clock % self.block_size]

    def needs_block(self, request: Request) -> bool:
        """Whether this member takes a KV block in the next step."""
        offset = request.num_computed_tokens - request.entry_clock
        return (self.clock + offset) % self.block_size == 0

    def num_blocks_of(self, request: Request) -> int:
        """KV blocks that a member holds now."""
        computed = request.num_computed_tokens + self.clock - request.entry_clock
        return -(-computed // self.block_size)

    def blocks_of_steps(self, num_steps: int) -> list[int]:
        """KV blocks that each of the next steps takes if nobody joins or leaves."""
        phase = self.clock % self.block_size
        cycle = self._crossing[phase:] + self._crossing[:phase]
        return (cycle * (num_steps // self.block_size + 1))[:num_steps]

    def step(self, num_steps: int = 1) -> None:
        """One token for every member, `num_steps` times."""
        self.clock += num_steps
        self.context += self.size * num_steps

    def pop_finished(self) -> list[Request]:
        """Take out the members that have all their tokens, in running order."""
        heap, clock, finished = self._finishing, self.clock, []
        while heap and heap[0][0] <= clock:
            finish, _, request = heappop(heap)
            # entries of members that left meanwhile, or left and came back, are stale
            if request.entry_clock >= 0 and finish == self._finish_clock(request):
                self.remove(request)
                finished.append(request)
        return finished

    def num_steps_until_finish(self) -> int:
        """Steps until the next member finishes; 0 for an empty group."""
        heap = self._finishing
        while heap:
            finish, _, request = heap[0]
            if request.entry_clock >= 0 and finish == self._finish_clock(request):
                return finish - self.clock
            heappop(heap)
        return 0

    def _finish_clock(self, request: Request) -> int:
        return request.entry_clock + request.max_tokens - request.num_output_tokens
