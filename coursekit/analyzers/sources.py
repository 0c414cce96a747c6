"""Where times of prefill and decode come from: a formula, a roofline, a record, a live engine.

A source answers two questions, what a prompt takes in chunks of some size and what a decode step
of some batch takes, and says what it knows of the model and the device. A cost model answers
here; a live engine in `engine_source`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from coursekit.cost.base import CostModel
from coursekit.cost.calibrated import CalibratedCost
from coursekit.cost.formula import FormulaCost
from coursekit.cost.roofline import RooflineCost
from coursekit.models.config import SHAPES

if TYPE_CHECKING:
    from coursekit.cost.devices import Hardware
    from coursekit.models.config import ModelConfig

LIVE = ("live:torch", "live:vllm")


class Timing(NamedTuple):
    """Seconds of a prefill or of a decode step.

    spread: longest minus shortest repeat over their median, 0 where nothing is repeated; parts_s:
    of each iteration; extrapolated: whether the source knew no such iteration.
    """

    seconds: float
    spread: float = 0.0
    parts_s: tuple[float, ...] = ()
    extrapolated: bool = False


class Limits(NamedTuple):
    """The largest chunk, context and batch that a source was made for, in tokens and requests."""

    chunk: int
    context: int
    batch: int


class TimeSource(Protocol):
    """The two times of a lone request, in seconds; enough for `PrefillDecodeAnalyzer.analyze`."""

    label: str

    def prefill_s(self, prompt_length: int) -> float: ...

    def decode_s(self, context_length: int) -> float: ...


class IterationSource(TimeSource, Protocol):
    """A source that also knows chunks and batches.

    limits: what default tables reach up to; config, hardware: model and device, None if unknown;
    bytes_per_value: of weights and KV cache.
    """

    limits: Limits
    config: ModelConfig | None
    hardware: Hardware | None
    bytes_per_value: int

    def prefill(self, prompt_length: int, chunk_size: int | None = None) -> Timing:
        """A prompt alone, in chunks of `chunk_size` tokens, one an iteration (None: one shot)."""
        ...

    def decode(self, context_length: int, batch_size: int = 1) -> Timing:
        """One step of `batch_size` requests, each behind `context_length` tokens."""
        ...


class CostSource:
    """A `CostModel` as a source: what it says an iteration costs.

    label: the cost model's unless given; config, hardware, bytes_per_value: read off a roofline,
    and the shape off a recorded profile's name, unless given. Raises ValueError for sizes < 1.
    """

    def __init__(
        self,
        cost: CostModel,
        label: str | None = None,
        config: ModelConfig | None = None,
        hardware: Hardware | None = None,
        bytes_per_value: int = 2,
    ):
        self.cost, self.label = cost, label or cost.label
        self.config, self.hardware, self.bytes_per_value = config, hardware, bytes_per_value
        self.limits = Limits(4096, 4096, 64)
        if isinstance(cost, RooflineCost):
            self.config, self.hardware = config or cost.model, hardware or cost.hardware
            self.bytes_per_value = cost.bytes_per_value
            self.limits = Limits(4096, min(8192, cost.model.max_position_embeddings), 64)
        if isinstance(cost, CalibratedCost):
            most = cost.profile.highest
            self.config = config or _shape_of(cost.profile.model)
            # of the measured sequences one was the prompt, the others decoded
            self.limits = Limits(
                most["tokens"], most["context"] // most["sequences"], most["sequences"] - 1
            )

    def prefill_s(self, prompt_length: int) -> float:
        """Seconds to prefill `prompt_length` >= 1 tokens in one shot."""
        return self.prefill(prompt_length).seconds

    def decode_s(self, context_length: int) -> float:
        """Seconds of one decode step behind `context_length` >= 1 tokens."""
        return self.decode(context_length).seconds

    def prefill(self, prompt_length: int, chunk_size: int | None = None) -> Timing:
        """See `IterationSource`."""
        spans = chunks_of(prompt_length, chunk_size)
        return self._ask([(0, 0, [(None, size, context)]) for size, context in spans])

    def decode(self, context_length: int, batch_size: int = 1) -> Timing:
        """See `IterationSource`."""
        check_sizes(context_length=context_length, batch_size=batch_size)
        return self._ask([(batch_size, batch_size * context_length, [])])

    def _ask(self, iterations: list[tuple]) -> Timing:
        """Sum over `iterations`; whether any is extrapolated is asked anew, and left as it was."""
        before = getattr(self.cost, "extrapolated", None)
        if before is not None:
            self.cost.extrapolated = False
        parts_s = tuple(self.cost.iteration_s(*iteration) for iteration in iterations)
        extrapolated = bool(getattr(self.cost, "extrapolated", False))
        if before is not None:
            self.cost.extrapolated = before or extrapolated
        return Timing(sum(parts_s), 0.0, parts_s, extrapolated)


def as_source(what, **options):
    """A source of times for `what`.

    "formula"; "roofline:DEVICE/MODEL" (options: of `RooflineCost`); "recorded:NAME", a profile of
    `coursekit.cost.profiles()`; "live:torch" or "live:vllm", an engine started here (options: of
    `coursekit.live.worker.build_engine`); a cost model; a `LiveEngine` or a `Decoder` (options: of
    `EngineSource`); or a source, which is returned as it is.
    Raises ValueError for an unknown name, listing the known ones, and TypeError for another thing.
    """
    if isinstance(what, str):
        return _named(what, options)
    if hasattr(what, "iteration_s"):
        return CostSource(what, **options)
    if hasattr(what, "submit") or hasattr(what, "new_cache"):
        from coursekit.analyzers.engine_source import EngineSource

        return EngineSource(what, **options)
    if hasattr(what, "prefill_s") and hasattr(what, "decode_s"):
        return what
    raise TypeError(
        f"a source must be a name, a cost model, a live engine, a Decoder, or have prefill_s and "
        f"decode_s, got {type(what).__name__}"
    )


def _named(name: str, options: dict):
    kind, _, rest = name.partition(":")
    if name == "formula":
        return CostSource(FormulaCost(**options))
    if kind == "roofline" and "/" in rest:
        return CostSource(RooflineCost(*rest.split("/", 1), **options))
    if kind == "recorded":
        from coursekit.cost.profiling import recorded_cost

        cost = recorded_cost(rest)
        profile = cost.profile
        label = f"recorded ({profile.device}, {profile.model}, {profile.date})"
        return CostSource(cost, label, **options)
    if name in LIVE:
        from coursekit.analyzers.engine_source import EngineSource
        from coursekit.live.worker import build_engine

        return EngineSource(build_engine(rest, **options))
    raise ValueError(f"unknown source {name!r}; known: {', '.join(known_sources())}")


def known_sources() -> list[str]:
    """Names that `as_source` takes; a roofline takes any device and model there is."""
    from coursekit.cost import DEVICES, profiles

    devices, models = "|".join(DEVICES), "|".join(SHAPES)
    rooflines = f"roofline:DEVICE/MODEL with DEVICE of {devices} and MODEL of {models}"
    return ["formula", rooflines, *(f"recorded:{name}" for name in profiles()), *LIVE]


def chunks_of(prompt_length: int, chunk_size: int | None = None) -> list[tuple[int, int]]:
    """(tokens, context) of each chunk. Raises ValueError for a size < 1."""
    check_sizes(prompt_length=prompt_length, chunk_size=1 if chunk_size is None else chunk_size)
    size = min(chunk_size or prompt_length, prompt_length)
    return [(min(size, prompt_length - at), at) for at in range(0, prompt_length, size)]


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for the first of `sizes` that is < 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}")


def _shape_of(model: str) -> ModelConfig | None:
    """The known shape that a model's name begins with: "SmolLM2-135M-Instruct, torch"."""
    found = [shape for name, shape in SHAPES.items() if model.lower().startswith(name)]
    return found[0] if found else None
