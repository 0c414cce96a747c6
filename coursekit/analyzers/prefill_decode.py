"""Prefill against decode: one analyzer, several sources of times.

A source is anything with `prefill_s(prompt_length)`, `decode_s(context_length)` and a `label`
that says whether its numbers are simulated, recorded or live. The analyzer asks and tabulates;
it neither measures nor models.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from coursekit.cost.formula import FormulaCost

if TYPE_CHECKING:
    import pandas as pd

MODULE_PROMPT_LENGTHS = (100, 500, 1000, 2000, 4000, 8000)


class TimeSource(Protocol):
    """Where times come from; all in seconds."""

    label: str

    def prefill_s(self, prompt_length: int) -> float: ...

    def decode_s(self, context_length: int) -> float: ...


class PrefillDecodeAnalyzer:
    """Compares prefill and decode of one source (default: the module's formula)."""

    def __init__(self, source: TimeSource | None = None):
        self.source = source if source is not None else FormulaCost()

    def measure_prefill_time(self, prompt_length: int) -> float:
        """Seconds to prefill a prompt of `prompt_length` tokens in one shot."""
        return self.source.prefill_s(prompt_length)

    def measure_decode_time(self, context_length: int) -> float:
        """Seconds to decode one token behind `context_length` tokens."""
        return self.source.decode_s(context_length)

    def analyze(self, prompt_lengths: Iterable[int] = MODULE_PROMPT_LENGTHS) -> pd.DataFrame:
        """One row per prompt length, in seconds; `.attrs["label"]` says where from.

        Columns: prompt_length, prefill_s, decode_s (behind a context of that length) and
        ratio, the number of decode steps that fit into that prefill. Raises ValueError
        without any prompt length, and as the source does for one that it can't take.
        """
        import pandas as pd

        lengths = list(prompt_lengths)
        if not lengths:
            raise ValueError("prompt_lengths must hold at least 1 length, got none")
        table = pd.DataFrame({"prompt_length": lengths})
        table["prefill_s"] = [self.measure_prefill_time(n) for n in lengths]
        table["decode_s"] = [self.measure_decode_time(n) for n in lengths]
        table["ratio"] = table.prefill_s / table.decode_s
        table.attrs["label"] = self.source.label
        return table
