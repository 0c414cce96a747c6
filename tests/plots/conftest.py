"""Records with known numbers, for pictures that can be checked without measuring."""

import pytest

from coursekit.analyzers import BlockingRun, Iteration


@pytest.fixture
def make_run():
    """Return a function that makes a run: 50 ms per iteration, and 1 ms per prefill token."""

    def make(chunk_size=256, prompt_length=1000, label="live (test device)", lead=3, tail=2):
        size = chunk_size or prompt_length
        sizes = [min(size, prompt_length - at) for at in range(0, prompt_length, size)]
        iterations, now = [], 0.0
        for tokens in [0] * lead + sizes + [0] * tail:
            end = now + 0.05 + 0.001 * tokens
            iterations.append(Iteration(now, end, tokens, 4))
            now = end
        return BlockingRun(
            label, prompt_length, chunk_size, 4, iterations[lead - 1].end_s, tuple(iterations)
        )

    return make
