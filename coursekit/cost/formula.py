"""The module's first model of cost: prefill quadratic in the prompt, decode linear in context.

A learner's starting point, there to be falsified by measurement. The module text mixed
seconds and milliseconds; here every number is in seconds, as its own comments have it
("10 ms base" is 0.010).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coursekit.cost.base import Chunks


@dataclass(frozen=True, slots=True)
class FormulaCost:
    """Cost in seconds as two polynomials; the defaults are the module's constants.

    The module prices a prompt and a decode step; an iteration is priced from these so that
    one of them alone costs what the module says. A chunk of n tokens behind c costs the
    difference of two prompts, (c + n)^2 - c^2, so that the chunks of a prompt sum to the
    prompt, but for one base each. Decodes cost by their mean context: the batch is free. An
    iteration pays one base, that of prefill if there is a chunk in it.
    """

    prefill_base_s: float = 0.010
    prefill_s_per_token_squared: float = 1e-6
    decode_base_s: float = 0.005
    decode_s_per_context_token: float = 1e-5

    label = "simulated (module formula)"

    def prefill_s(self, prompt_length: int) -> float:
        """Seconds to prefill `prompt_length` >= 1 tokens in one shot."""
        _check_positive("prompt_length", prompt_length)
        return self.prefill_base_s + self.prefill_s_per_token_squared * prompt_length**2

    def decode_s(self, context_length: int) -> float:
        """Seconds of one decode step behind `context_length` >= 1 tokens."""
        _check_positive("context_length", context_length)
        return self.decode_base_s + self.decode_s_per_context_token * context_length

    def iteration_s(self, num_decodes: int, decode_context: int, chunks: Chunks) -> float:
        """Seconds of one iteration; see `coursekit.cost.base`."""
        seconds = self.decode_base_s
        if chunks:
            squares = 0
            for _, num_tokens, context in chunks:
                squares += num_tokens * (num_tokens + 2 * context)
            seconds = self.prefill_base_s + self.prefill_s_per_token_squared * squares
        if num_decodes:
            seconds += self.decode_s_per_context_token * (decode_context / num_decodes)
        return seconds

    def decode_run_s(
        self, num_decodes: int, decode_context: int, num_iterations: int
    ) -> np.ndarray:
        """Seconds of consecutive iterations of decodes alone; see `coursekit.cost.base`."""
        contexts = decode_context + num_decodes * np.arange(num_iterations)
        return self.decode_base_s + self.decode_s_per_context_token * (contexts / num_decodes)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be >= 1 token, got {value}")
