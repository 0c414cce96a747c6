"""Driving a torch engine step by step, and what each request must get from it."""

from __future__ import annotations

from functools import cache

import torch

from coursekit.live import TorchEngine
from coursekit.live.base import random_token_ids
from coursekit.models import Chunk, generate_greedy
from coursekit.request import Request
from tests.schedulers.checker import Arrival


@cache
def alone(model, seed: int, num_prompt_tokens: int, max_tokens: int) -> list[int]:
    """The tokens that a request gets with nobody else there, its prompt in one shot."""
    prompt = random_token_ids(model.config.vocab_size, num_prompt_tokens, seed)
    cache = model.new_cache(num_prompt_tokens + max_tokens)
    logits = model([Chunk(torch.tensor(prompt), cache)])[0]
    return generate_greedy(model, cache, logits, max_tokens)


def serve(
    engine: TorchEngine, arrivals: list[Arrival], on_step=lambda step: None, most_steps: int = 5000
) -> dict[int, list[int]]:
    """Run `arrivals`, by step, to the end; return the tokens that each request was sent."""
    sent: dict[int, list[int]] = {index: [] for index in range(len(arrivals))}
    coming, now = list(enumerate(arrivals)), 0
    while coming or engine.has_requests:
        while coming and coming[0][1].step <= now:
            engine.add_request(make_request(*coming.pop(0)))
        on_step(now)
        step = engine.step() if engine.has_requests else None
        for index, token in (step.tokens if step else {}).items():
            sent[index].append(token)
        now += 1
        assert now < most_steps, f"still {len(engine.requests)} requests after {now} steps"
    return sent


def make_request(index: int, arrival: Arrival) -> Request:
    return Request(
        index, 0.0, arrival.num_prompt_tokens, arrival.max_tokens, arrival.priority,
        arrival.priority_class,
    )  # fmt: skip


def expected(model, arrivals: list[Arrival]) -> dict[int, list[int]]:
    """What `serve` must return."""
    return {
        index: alone(model, index, arrival.num_prompt_tokens, arrival.max_tokens)
        for index, arrival in enumerate(arrivals)
    }


def assert_nothing_is_held(engine: TorchEngine) -> None:
    """No KV slot, no KV block, no request and no token is left."""
    cache, kv = engine.executor.cache, engine.scheduler.kv
    assert cache.num_free == len(cache.lengths) and not engine.executor.slots
    assert kv.num_free == kv.num_blocks
    assert not engine.executor.tokens and not engine.requests
