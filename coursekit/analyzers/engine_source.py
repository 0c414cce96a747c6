"""A live engine as a source of times: what prefill and decode take here and now.

An engine takes requests, not batches, so a batch is led up to: a prompt alone under a token budget
of one chunk, a scene of `cost.measure`; or streams that start one after another so that they
are equally far when all decode. Every answer is the median of repeats, with their spread.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from coursekit.analyzers.sources import Limits, Timing, check_sizes, chunks_of
from coursekit.cost.measure import Scene, measure_scene
from coursekit.live.base import LiveEngine, Step
from coursekit.models.config import ModelConfig

if TYPE_CHECKING:
    from coursekit.models.decoder import Decoder

MAX_BUDGET, MAX_SEQS, MAX_MODEL_LEN = 2048, 17, 4096  # of an engine made for a bare model
NUM_STEPS = 3  # decode steps of one repeat, of which the median counts
SPARE = 8  # tokens that a stream may get before the last one starts, or after


class EngineSource:
    """Times a `LiveEngine`, ours or vLLM's, or a `Decoder`, for which an engine is made.

    repeats: of each measurement. label, limits, config, bytes_per_value: of the engine;
    hardware: None, a live device's ceilings are not known. The engine must be idle, with prefix
    caching off and a policy that cuts prompts by its token budget; its budget is left as it was.
    Raises ValueError for repeats < 1, an engine that is busy, and (from its methods) for sizes
    past the engine's limits, and batches that the engine does not run as asked.
    """

    hardware = None

    def __init__(self, engine: LiveEngine | Decoder, repeats: int = 3):
        check_sizes(repeats=repeats)
        self.engine = engine if hasattr(engine, "submit") else _engine_for(engine)
        self.repeats = repeats
        self.label = self.engine.label
        self.config, self.bytes_per_value = _model_of(self.engine)
        longest, seats = self.engine.max_model_len, num_seats(self.engine)
        context = longest - repeats * NUM_STEPS - SPARE
        self.limits = Limits(min(self.engine.max_token_budget, longest - 1), context, seats)
        self.prefill(4)  # the first iterations pay for memory and code paths

    def prefill_s(self, prompt_length: int) -> float:
        """Seconds to prefill `prompt_length` tokens in one shot."""
        return self.prefill(prompt_length).seconds

    def decode_s(self, context_length: int) -> float:
        """Seconds of one decode step behind `context_length` tokens."""
        return self.decode(context_length).seconds

    def prefill(self, prompt_length: int, chunk_size: int | None = None) -> Timing:
        """See `IterationSource`; the seconds are those of the prompt's iterations, summed."""
        asked = chunks_of(prompt_length, chunk_size)
        scene = Scene(0, 0, asked[0][0], prompt_length)
        measured = self._alone(lambda: measure_scene(self.engine, scene, self.repeats))
        ran = [same[0].chunks[0][1:] for same in measured]
        if ran != asked:
            sizes = [size for size, _ in ran]
            raise ValueError(
                f"a prompt of {prompt_length} tokens in chunks of {asked[0][0]} ran as {sizes}: "
                "take an engine whose scheduler keeps to its token budget, such as TokenBudget"
            )
        return _timing([[row.seconds for row in same] for same in measured])

    def decode(self, context_length: int, batch_size: int = 1) -> Timing:
        """See `IterationSource`; contexts are within a few tokens of what was asked for."""
        check_sizes(context_length=context_length, batch_size=batch_size)
        most, seats = self.limits.context, self.limits.batch
        if context_length > most or batch_size > seats:
            raise ValueError(
                f"context_length must be in 1..{most} and batch_size in 1..{seats}, got "
                f"{context_length} and {batch_size}; start the engine with a larger max_model_len "
                "or max_num_seqs"
            )
        steps = self._alone(lambda: self._decode_steps(context_length, batch_size))
        seconds = [step.duration_s for step in steps]
        rounds = [median(seconds[at :: self.repeats]) for at in range(self.repeats)]
        return _timing([rounds])

    def _decode_steps(self, context: int, batch: int) -> list[Step]:
        """Start `batch` streams, and take steps in which all of them decode."""
        engine, waiting = self.engine, set()
        engine.token_budget = budget = engine.max_token_budget
        steps_each = context / max(1, budget - batch)  # that a prompt takes
        for place in range(batch):
            # those that start first decode while the others are prefilled: begin them shorter
            length = max(1, context - round((batch - 1 - place) * steps_each))
            waiting.add(engine.submit(length, engine.max_model_len - length))
        tried = 0
        while waiting and tried < 2 * batch * (steps_each + 1) + SPARE:
            waiting.difference_update(engine.step().tokens)
            tried += 1
        steps = [engine.step() for _ in range(NUM_STEPS * self.repeats)]
        fewest = min(step.num_decode_tokens for step in steps)
        if waiting or fewest < batch or any(step.num_prefill_tokens for step in steps):
            raise ValueError(
                f"of batch_size {batch} only {fewest} requests decoded at once; start the engine "
                "with more KV cache, and a policy that lets decodes and prompts share a batch"
            )
        return steps

    def close(self) -> None:
        """Close the engine: the device is free again."""
        self.engine.close()

    def _alone(self, measure: Callable):
        """What `measure` returns; afterwards the engine is idle, and its budget as it was."""
        if self.engine.has_requests:
            raise ValueError(
                f"the engine serves {len(self.engine.requests)} requests; let them finish, or "
                "cancel them, before it is measured"
            )
        budget = self.engine.token_budget
        try:
            return measure()
        finally:
            for index in list(self.engine.requests):
                self.engine.cancel(index)
            self.engine.token_budget = budget


def _timing(measured: list[list[float]]) -> Timing:
    """From seconds of each iteration in each round: the median round, and each iteration's."""
    rounds = [sum(seconds) for seconds in zip(*measured)]
    middle = median(rounds)
    parts_s = tuple(median(seconds) for seconds in measured)
    return Timing(middle, (max(rounds) - min(rounds)) / middle, parts_s)


def num_seats(engine: LiveEngine) -> int:
    """Most requests that the engine runs at once."""
    scheduler = engine.scheduler
    ours = getattr(scheduler, "max_num_seqs", None)
    return ours if ours is not None else scheduler.scheduler_config.max_num_seqs


def _engine_for(model: Decoder) -> LiveEngine:
    """Our engine on `model`, with vLLM's policy."""
    from coursekit.live.torch_engine import TorchEngine
    from coursekit.schedulers import TokenBudget

    longest = min(MAX_MODEL_LEN, model.config.max_position_embeddings)
    return TorchEngine(model, TokenBudget(min(MAX_BUDGET, longest), MAX_SEQS), longest)


def _model_of(engine: LiveEngine) -> tuple[ModelConfig, int]:
    """Shape of the model, and bytes of one of its values."""
    if hasattr(engine, "executor"):
        model = engine.executor.model
        return model.config, model.dtype.itemsize
    described = engine.engine.model_config  # vLLM's
    return ModelConfig.from_folder(described.model), described.dtype.itemsize
