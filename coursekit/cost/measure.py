"""Measuring a live engine's iterations, ours or vLLM's, to fit a `CalibratedCost` to them.

An engine takes requests, not batches, so batches are led up to: some streams decode, and a
prompt arrives under a token budget that cuts it into equal chunks, each behind all those before.
Every iteration is a measurement. `calibrate` measures a bare model instead, batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from coursekit.cost.calibrated import MeasuredIteration
from coursekit.live.base import LiveEngine

NUM_ALONE = 3  # decode steps measured before the prompt arrives


class Scene(NamedTuple):
    """`num_decodes` streams of `decode_context` tokens, and a prompt in chunks of `chunk_size`."""

    num_decodes: int
    decode_context: int
    chunk_size: int
    prompt_length: int


def scenes(
    max_chunk: int, max_decodes: int, max_context: int, most_tokens: int | None = None
) -> list[Scene]:
    """A grid of scenes up to these limits: chunk sizes and decodes in steps of 4, and mixed.

    max_context: of decodes and of chunks; most_tokens: of all prompts, to bound the time.
    Raises ValueError for limits too small to tell the terms of a cost apart.
    """
    lowest = {"max_chunk": (max_chunk, 16), "max_decodes": (max_decodes, 2),
              "max_context": (max_context, 64)}  # fmt: skip
    for name, (value, low) in lowest.items():
        if value < low:
            raise ValueError(f"{name} must be >= {low}, got {value}")
    sizes, streams = _steps(16, max_chunk), [0, *_steps(1, max_decodes)]
    made = []
    for index, size in enumerate(sizes):
        length = min(max_context, max(4 * size, 256))
        for place, count in enumerate(streams):
            context = max_context if (index + place) % 2 else max(16, max_context // 8)
            made.append(Scene(count, context, size, max(length, size)))
    if most_tokens is not None:
        made = _fewer(made, most_tokens)
    return made


def _fewer(made: list[Scene], most_tokens: int) -> list[Scene]:
    """Shorter prompts, down to two chunks, until all have at most `most_tokens` together."""
    while sum(scene.prompt_length for scene in made) > most_tokens:
        longest = max(made, key=lambda scene: scene.prompt_length / scene.chunk_size)
        if longest.prompt_length <= 2 * longest.chunk_size:
            break
        place = made.index(longest)
        made[place] = longest._replace(prompt_length=longest.prompt_length // 2)
    return made


def _steps(low: int, high: int) -> list[int]:
    """low, 4 low, 16 low, ... and high."""
    values = [low]
    while values[-1] * 4 < high:
        values.append(values[-1] * 4)
    return [*values, high] if high > values[-1] else values


def measure_scene(
    engine: LiveEngine, scene: Scene, rounds: int = 3
) -> list[list[MeasuredIteration]]:
    """Run a scene `rounds` times: for each of its iterations, the measurements of all rounds.

    The engine must be idle, serve all decodes before prompts, and have prefix caching off. Raises
    ValueError for a scene past the engine's limits.
    """
    _check(engine, scene)
    runs = [_run(engine, scene) for _ in range(rounds)]
    return [list(same) for same in zip(*runs, strict=True)]


def median_of(same: Sequence[MeasuredIteration]) -> MeasuredIteration:
    """One iteration that was measured several times: its median."""
    return same[0]._replace(seconds=median(each.seconds for each in same))


def _check(engine: LiveEngine, scene: Scene) -> None:
    limits = {
        "num_decodes + chunk_size": (scene.num_decodes + scene.chunk_size, engine.max_token_budget),
        "prompt_length": (scene.prompt_length, engine.max_model_len - 1),
    }
    for name, (value, most) in limits.items():
        if value > most:
            raise ValueError(f"{name} must be <= {most}, the engine's limit, got {value}")


def _run(engine: LiveEngine, scene: Scene) -> list[MeasuredIteration]:
    num_chunks = -(-scene.prompt_length // scene.chunk_size)
    num_steps = NUM_ALONE + num_chunks
    # the first stream waits for the last, which begins when the prompts before it have been run
    room = max(1, engine.max_token_budget - scene.num_decodes)
    num_filling = -(-scene.num_decodes * scene.decode_context // room) + scene.num_decodes
    length = num_filling + num_steps + 8
    context = min(scene.decode_context, engine.max_model_len - length)
    outputs = _start_streams(engine, scene.num_decodes, context, length)
    engine.token_budget = scene.num_decodes + scene.chunk_size
    measured, done, prompt = [], 0, None
    for number in range(num_steps):
        if number == NUM_ALONE or not outputs:
            prompt = engine.submit(scene.prompt_length, 1) if prompt is None else prompt
        held = sum(context + num - 1 for num in outputs.values())
        step = engine.step()
        chunks = [(None, step.num_prefill_tokens, done)] if step.num_prefill_tokens else []
        measured.append(MeasuredIteration(step.num_decode_tokens, held, chunks, step.duration_s))
        done += step.num_prefill_tokens
        for index in step.tokens:
            if index in outputs:
                outputs[index] += 1
        if prompt in step.finished:
            break
    for index in list(engine.requests):
        engine.cancel(index)
    return measured


def _start_streams(engine: LiveEngine, count: int, context: int, length: int) -> dict[int, int]:
    """Requests of `length` tokens to come that decode, and how many tokens each has had."""
    engine.token_budget = engine.max_token_budget
    outputs = {engine.submit(context, length): 0 for _ in range(count)}
    while not all(outputs.values()):
        for index in engine.step().tokens:
            outputs[index] += 1
    return outputs


def measure_engine(
    engine: LiveEngine,
    todo: Sequence[Scene],
    rounds: int = 3,
    on_scene: Callable[[int], None] | None = None,
) -> list[MeasuredIteration]:
    """All iterations of all scenes; on_scene: called with the number of scenes done."""
    measured = []
    for number, scene in enumerate(todo, 1):
        measured += map(median_of, measure_scene(engine, scene, rounds))
        if on_scene is not None:
            on_scene(number)
    return measured
