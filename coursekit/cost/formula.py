"""The module's first model of cost: prefill quadratic in the prompt, decode linear in context.

A learner's starting point, there to be falsified by measurement. The module text mixed
seconds and milliseconds; here every number is in seconds, as its own comments have it
("10 ms base" is 0.010).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FormulaCost:
    """Cost in seconds as two polynomials; the defaults are the module's constants."""

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


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be >= 1 token, got {value}")
