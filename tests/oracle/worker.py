"""One case of the long run, as a process of its own tries it."""

from __future__ import annotations

from collections import Counter

from tests.oracle.compare import compare
from tests.oracle.schedule import exercised
from tests.oracle.strategies import random_case


def try_seed(seed: int) -> tuple[Counter, bool]:
    """What the case of a seed exercised, and whether our schedule was vLLM's."""
    case = random_case(seed)
    theirs, wrong = compare(case)
    return exercised(case, theirs), wrong is None
