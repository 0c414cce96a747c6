"""vLLM runs in the tests' own process here, and must leave it as it was."""

import os

import pytest


@pytest.fixture(autouse=True, scope="module")
def unchanged_environment():
    """vLLM for CPUs sets LD_PRELOAD and more, which later tests would hand to their children."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
