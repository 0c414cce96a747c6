"""Chunked prefill that is really so: a prompt runs through the model in pieces.

Each chunk attends to all chunks before it through one preallocated KV cache, so the result
equals a one-shot prefill. Processing stops between chunks whenever the caller wishes, and
resumes from what the cache holds: a prompt's computed tokens catch up with its tokens (the
idea of vLLM's `v1/core/sched/scheduler.py`). Which request goes next is a scheduler's matter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from coursekit.kv_cache.contiguous import ContiguousKVCache
from coursekit.models.decoder import Chunk, Decoder
from coursekit.models.token_ids import as_token_ids


@dataclass(frozen=True, slots=True)
class ChunkProgress:
    """What one chunk did. `start` and `end` are places in the prompt, end exclusive."""

    start: int
    end: int
    num_prompt_tokens: int
    duration_s: float

    @property
    def finished(self) -> bool:
        return self.end == self.num_prompt_tokens


class PrefillJob:
    """One prompt on its way through the model: iterate, or call `step`, to run chunks.

    cache:  the request's KV cache; `cache.length` tokens are computed so far
    logits: (vocab_size,) of the prompt's last token once finished, None before
    """

    def __init__(
        self, model: Decoder, token_ids: torch.Tensor, cache: ContiguousKVCache, chunk_size: int
    ):
        self.model = model
        self.token_ids = token_ids
        self.cache = cache
        self.chunk_size = chunk_size
        self.logits: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        return self.logits is not None

    def step(self) -> ChunkProgress:
        """Run the next chunk. If it raises, the cache is as before, and it can be retried."""
        if self.finished:
            raise RuntimeError("this prefill is finished; its logits are in .logits")
        start = self.cache.length
        end = min(start + self.chunk_size, len(self.token_ids))
        began = time.perf_counter()
        logits = self.model([Chunk(self.token_ids[start:end], self.cache)])
        if logits.is_cuda:
            torch.cuda.synchronize(logits.device)
        if end == len(self.token_ids):
            self.logits = logits[0]
        return ChunkProgress(start, end, len(self.token_ids), time.perf_counter() - began)

    def __iter__(self) -> Iterator[ChunkProgress]:
        while not self.finished:
            yield self.step()


class ChunkedPrefillProcessor:
    """Splits prompts into chunks of `chunk_size` tokens and runs them through `model`.

    Raises ValueError if chunk_size is not an int >= 1. `enable_chunking=False` runs every
    prompt in one shot, for comparison.
    """

    def __init__(self, model: Decoder, chunk_size: int = 512, enable_chunking: bool = True):
        self.model = model
        self.chunk_size = check_chunk_size(chunk_size)
        self.enable_chunking = enable_chunking

    def split_into_chunks(self, num_tokens: int, start: int = 0) -> list[tuple[int, int]]:
        """The (start, end) of each chunk of a prompt of which `start` tokens are computed."""
        size = self._size_for(num_tokens)
        return [(at, min(at + size, num_tokens)) for at in range(start, num_tokens, size)]

    def start(
        self, prompt: Sequence[int] | torch.Tensor, cache: ContiguousKVCache | None = None
    ) -> PrefillJob:
        """Begin a prompt's prefill, or resume it from a cache that holds its first tokens.

        prompt: token ids, (num_tokens,). cache: filled by an earlier job for the same prompt
        (or one with the same beginning); a new one of the model's full context is made
        without it. A cache that holds the whole prompt has its last token run again, as there
        are no logits otherwise. Raises ValueError for a prompt that is empty, has a bad token
        id, or is longer than the context or the cache, and for a cache of other tokens.
        """
        token_ids = as_token_ids(prompt, self.model.config.vocab_size)
        limit = self.model.config.max_position_embeddings
        if len(token_ids) > limit:
            raise ValueError(
                f"prompt has {len(token_ids)} tokens, the model's context is 1..{limit}; shorten it"
            )
        if cache is None:
            cache = self.model.new_cache(limit)
        self._check_cache(cache, token_ids)
        if cache.length == len(token_ids):
            cache.truncate(len(token_ids) - 1)
        return PrefillJob(self.model, token_ids, cache, self._size_for(len(token_ids)))

    def process(
        self,
        prompt: Sequence[int] | torch.Tensor,
        cache: ContiguousKVCache | None = None,
        on_chunk: Callable[[ChunkProgress], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> PrefillJob:
        """Run a prompt to its end, or until `should_stop()` is true between two chunks.

        Returns the job, with `.cache` and, if it finished, `.logits`. Raises as `start` does.
        """
        job = self.start(prompt, cache)
        for progress in job:
            if on_chunk is not None:
                on_chunk(progress)
            if should_stop is not None and should_stop():
                break
        return job

    def _size_for(self, num_tokens: int) -> int:
        return self.chunk_size if self.enable_chunking else max(1, num_tokens)

    @staticmethod
    def _check_cache(cache: ContiguousKVCache, token_ids: torch.Tensor) -> None:
        if len(token_ids) > cache.capacity:
            raise ValueError(
                f"prompt has {len(token_ids)} tokens, the cache holds 1..{cache.capacity}; "
                "make the cache larger"
            )
        known = cache.token_ids[: cache.length]
        if not torch.equal(known, token_ids[: cache.length]):
            raise ValueError(
                f"the cache's {cache.length} tokens are not the beginning of this prompt; "
                "resume with the prompt it was filled from, or start with a new cache"
            )


def check_chunk_size(chunk_size: int) -> int:
    """Return `chunk_size` if it is an int >= 1; raise ValueError otherwise."""
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be an int >= 1, got {chunk_size!r}; try 512")
    return chunk_size
