"""What one iteration runs: a token of each decoding request, and chunks of other requests."""

from __future__ import annotations

from typing import NamedTuple

from coursekit.request import Request


class Chunk(NamedTuple):
    """`num_tokens` next tokens of a request that has `context` tokens computed before them."""

    request: Request
    num_tokens: int
    context: int


class Batch:
    """A scheduler's decision for one iteration.

    num_decodes: members of the decode group, one token each, and decode_context, the sum of
    the tokens they attend to besides it; chunks: tokens of everybody else; preempted: requests
    that lost their KV blocks in this step; admitted: requests that left the waiting queue.
    """

    __slots__ = ("num_decodes", "decode_context", "chunks", "preempted", "admitted")

    def __init__(self):
        self.num_decodes = 0
        self.decode_context = 0
        self.chunks: list[Chunk] = []
        self.preempted: list[Request] = []
        self.admitted: list[Request] = []

    @property
    def num_tokens(self) -> int:
        """All tokens of the iteration."""
        return self.num_decodes + sum(chunk.num_tokens for chunk in self.chunks)
