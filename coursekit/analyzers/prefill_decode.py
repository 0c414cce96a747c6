"""Prefill against decode: one analyzer, several sources of times.

A source is a formula, a roofline, a recorded profile, a live engine (`sources`, `engine_source`),
or anything with `prefill_s(prompt_length)`, `decode_s(context_length)` and a `label` that says
whether its numbers are simulated, recorded or live. The analyzer asks and tabulates; it neither
measures nor models.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from coursekit.analyzers.findings import describe_prefill_decode
from coursekit.analyzers.knee import Knee, find_knee
from coursekit.analyzers.sources import IterationSource, TimeSource, as_source, chunks_of
from coursekit.cost.arithmetic import Work, batch_work
from coursekit.cost.formula import FormulaCost

if TYPE_CHECKING:
    import pandas as pd

MODULE_PROMPT_LENGTHS = (100, 500, 1000, 2000, 4000, 8000)


class PrefillDecodeAnalyzer:
    """Compares prefill and decode of one source (default: the module's formula).

    source: anything that `as_source` takes. `analyze` needs only a source's two times; the tables
    by chunk and batch, the knee and the findings need one that knows chunks and batches.
    """

    def __init__(self, source: TimeSource | IterationSource | None = None):
        self.source = as_source(source if source is not None else FormulaCost())

    @classmethod
    def of(cls, what, **options) -> PrefillDecodeAnalyzer:
        """An analyzer of `what`: a name, a cost model, a live engine or a model.

        "formula", "roofline:a100/llama-2-7b", "recorded:DEVICE/MODEL-ENGINE", "live:torch",
        "live:vllm"; see `as_source` for all, their options, and what is raised.
        """
        return cls(as_source(what, **options))

    def measure_prefill_time(self, prompt_length: int, chunk_size: int | None = None) -> float:
        """Seconds to prefill `prompt_length` tokens, in one shot or in chunks of `chunk_size`."""
        if chunk_size is None:
            return self.source.prefill_s(prompt_length)
        return self._detailed.prefill(prompt_length, chunk_size).seconds

    def measure_decode_time(self, context_length: int, batch_size: int = 1) -> float:
        """Seconds to decode one token of each of `batch_size` requests behind their contexts."""
        if batch_size == 1:
            return self.source.decode_s(context_length)
        return self._detailed.decode(context_length, batch_size).seconds

    def analyze(self, prompt_lengths: Iterable[int] = MODULE_PROMPT_LENGTHS) -> pd.DataFrame:
        """One row per prompt length, in seconds; `.attrs["label"]` says where from.

        Columns: prompt_length, prefill_s, decode_s (behind a context of that length) and
        ratio, the number of decode steps that fit into that prefill. Raises ValueError
        without any prompt length, and as the source does for one that it can't take.
        """
        import pandas as pd

        lengths = _not_empty("prompt_lengths", prompt_lengths)
        table = pd.DataFrame({"prompt_length": lengths})
        table["prefill_s"] = [self.measure_prefill_time(n) for n in lengths]
        table["decode_s"] = [self.measure_decode_time(n) for n in lengths]
        table["ratio"] = table.prefill_s / table.decode_s
        table.attrs["label"] = self.source.label
        return table

    def prefill_table(
        self,
        prompt_lengths: Iterable[int] | None = None,
        chunk_sizes: Iterable[int] | None = None,
    ) -> pd.DataFrame:
        """Prefill time by prompt length and chunk size: each prompt in one shot, and in chunks.

        Columns: prompt_length, chunk_size (the prompt's length in the row of one shot), one_shot,
        num_chunks, prefill_s (all chunks together), overhead (prefill_s over that of one shot,
        less 1: below 0 chunks are faster), slowest_chunk_s, spread and extrapolated (see `Timing`),
        intensity (FLOP per byte over all chunks; nan if the model is not known).
        Chunk sizes that a prompt does not fill are left out for it. Defaults: up to the
        source's limits. Raises ValueError for an empty list, and as the source does.
        """
        source = self._detailed
        most = min(source.limits.chunk, source.limits.context)
        lengths = _sizes("prompt_lengths", prompt_lengths, most, 2, 7)
        sizes = _sizes("chunk_sizes", chunk_sizes, most // 2, 4, 4)
        rows = []
        for length in lengths:
            for size in [length, *(size for size in sizes if size < length)]:
                timing, chunks = source.prefill(length, size), chunks_of(length, size)
                one_shot_s = timing.seconds if size == length else one_shot_s
                rows.append({
                    "prompt_length": length, "chunk_size": size, "one_shot": size == length,
                    "num_chunks": len(chunks), "prefill_s": timing.seconds,
                    "overhead": timing.seconds / one_shot_s - 1,
                    "slowest_chunk_s": max(timing.parts_s), "spread": timing.spread,
                    "extrapolated": timing.extrapolated,
                    "intensity": self._intensity([(0, 0, [(None, *chunk)]) for chunk in chunks]),
                })  # fmt: skip
        return self._labelled(rows)

    def decode_table(
        self,
        context_lengths: Iterable[int] | None = None,
        batch_sizes: Iterable[int] | None = None,
    ) -> pd.DataFrame:
        """Time of one decode step by context and batch size; all requests have the same context.

        Columns: context_length, batch_size, step_s, tokens_per_s, over_one (step_s over that of
        the smallest batch behind that context), spread, extrapolated, intensity, as in
        `prefill_table`. Raises ValueError for an empty list, and as the source does.
        """
        source = self._detailed
        contexts = _sizes("context_lengths", context_lengths, source.limits.context, 4, 4)
        batches = _sizes("batch_sizes", batch_sizes, source.limits.batch, 4, 4)
        rows = []
        for context in contexts:
            for batch in batches:
                timing = source.decode(context, batch)
                least_s = timing.seconds if batch == batches[0] else least_s
                rows.append({
                    "context_length": context, "batch_size": batch, "step_s": timing.seconds,
                    "tokens_per_s": batch / timing.seconds, "over_one": timing.seconds / least_s,
                    "spread": timing.spread, "extrapolated": timing.extrapolated,
                    "intensity": self._intensity([(batch, batch * context, [])]),
                })  # fmt: skip
        return self._labelled(rows)

    def knee(self, num_tokens: Sequence[int] | None = None) -> Knee:
        """How many tokens an iteration takes along nearly for free; see `Knee`.

        num_tokens: sizes of the iterations to time, rising; by default powers of 2, and the
        middles between them, up to the source's largest chunk. Raises ValueError as `find_knee`.
        """
        source = self._detailed
        sizes = list(num_tokens) if num_tokens is not None else _knee_sizes(source.limits.chunk)
        timings = [source.prefill(size) for size in sizes]
        seconds, spread = ([getattr(t, name) for t in timings] for name in ("seconds", "spread"))
        ridge = float("nan")
        if source.hardware is not None:
            # a token is 2 FLOP for each weight, which is bytes_per_value bytes to read
            ridge = source.hardware.ridge * source.bytes_per_value / 2
        return find_knee(sizes, seconds, spread, source.label, ridge)

    def findings(
        self,
        prefill: pd.DataFrame | None = None,
        decode: pd.DataFrame | None = None,
        knee: Knee | None = None,
    ) -> str:
        """One paragraph on what the tables say; what is not given is asked for now."""
        ridge = self._detailed.hardware.ridge if self._detailed.hardware else None
        return describe_prefill_decode(
            self.prefill_table() if prefill is None else prefill,
            self.decode_table() if decode is None else decode,
            self.knee() if knee is None else knee, ridge,
        )  # fmt: skip

    @property
    def _detailed(self) -> IterationSource:
        if not hasattr(self.source, "prefill"):
            raise ValueError(
                f"{type(self.source).__name__} times one shot and one request only; for chunks and "
                "batches pass a cost model, a live engine, or the model itself to "
                "PrefillDecodeAnalyzer.of"
            )
        return self.source

    def _intensity(self, iterations: list[tuple]) -> float:
        """FLOP per byte over iterations given as (num_decodes, decode_context, chunks)."""
        source = self._detailed
        if source.config is None:
            return float("nan")
        total = Work(0, 0, 0, 0)
        for iteration in iterations:
            total += batch_work(source.config, *iteration, source.bytes_per_value)
        return total.intensity

    def _labelled(self, rows: list[dict]) -> pd.DataFrame:
        import pandas as pd

        table = pd.DataFrame(rows)
        table.attrs["label"] = self.source.label
        return table


def _not_empty(name: str, values: Iterable[int]) -> list[int]:
    values = list(values)
    if not values:
        one = name.removesuffix("s").rpartition("_")[2]
        raise ValueError(f"{name} must hold at least 1 {one}, got none")
    return values


def _sizes(name: str, given, most: int, factor: int, count: int) -> list[int]:
    """What is given, each once and in order; or `count` sizes up to `most`, `factor` apart."""
    if given is not None:
        return sorted(set(_not_empty(name, given)))
    top = 1 << (max(most, 1).bit_length() - 1)  # a power of 2
    return sorted({max(1, top // factor**power) for power in range(count)})


def _knee_sizes(most: int) -> list[int]:
    powers = [1 << power for power in range(most.bit_length())]
    return [n for n in sorted({*powers, *(3 * n for n in powers)}) if n <= most]
