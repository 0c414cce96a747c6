"""What the simulator asks of a cost model: the seconds of an iteration.

Any object with these three members will do; nothing has to inherit from anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Chunks = Sequence[tuple[Any, int, int]]


class CostModel(Protocol):
    """Seconds of an iteration, from counts alone.

    label: where the times come from, "simulated (NVIDIA A100 80GB SXM, llama-2-7b, roofline)".
    """

    label: str

    def iteration_s(self, num_decodes: int, decode_context: int, chunks: Chunks) -> float:
        """Seconds of one iteration.

        num_decodes: requests that run one token each; decode_context: the tokens before that
        one, summed over them; chunks: (request, num_tokens, context) of everybody else.
        Called once a simulated iteration, so it checks nothing.
        """
        ...

    def decode_run_s(
        self, num_decodes: int, decode_context: int, num_iterations: int
    ) -> np.ndarray:
        """Seconds of each of consecutive iterations of decodes alone, (num_iterations,).

        The k-th is `iteration_s(num_decodes, decode_context + k * num_decodes, ())`, bit for
        bit: the same operations in the same order.
        """
        ...
