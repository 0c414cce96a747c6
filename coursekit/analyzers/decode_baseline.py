"""What an iteration would have cost without any prefill token: its decodes alone.

With the run's cost model that is a question with an exact answer; without it, the record's own
iterations of decodes alone say what decodes cost.
"""

from __future__ import annotations

import numpy as np

from coursekit.analyzers.token_pieces import Pieces, is_decode, token_pieces
from coursekit.cost.base import CostModel
from coursekit.cost.calibrated import nonnegative_least_squares
from coursekit.trace import Trace

MIN_FITTED = 12  # four times the terms of the fit
OUTLIER = 3.0  # times the median error: a live machine that was busy with something else


def decode_baseline(trace: Trace, cost: CostModel | None = None) -> tuple[np.ndarray, str]:
    """Seconds of each iteration without its prefill tokens, (num_iterations,), and how known.

    An iteration without prefill tokens is its own baseline, one without decodes would not have
    been: 0. A mixed one costs what `cost` says of its decodes; without `cost`, a fit (iteration,
    decodes, context; no term negative) to the iterations of decodes alone, or, if these are fewer
    than MIN_FITTED, the median of those with the nearest number of decodes. No baseline is longer
    than the iteration was. Raises ValueError where mixed iterations are all there is.
    """
    table = trace.iterations
    duration_s = table["end_s"] - table["start_s"]
    decodes, has_prefill = table["num_decode_tokens"], table["num_prefill_tokens"] > 0
    baseline_s = np.where(has_prefill, 0.0, duration_s)
    mixed = np.flatnonzero(has_prefill & (decodes > 0))
    if not len(mixed):
        return baseline_s, "no iteration is mixed: nothing had to be estimated"
    contexts = decode_contexts(trace, token_pieces(trace))
    if cost is not None:
        pairs = zip(decodes[mixed].tolist(), contexts[mixed].tolist())
        alone_s = np.array([cost.iteration_s(count, context, ()) for count, context in pairs])
        how = f"the decodes alone, {cost.label}"
    else:
        alone_s, how = _estimate(duration_s, decodes, contexts, mixed, ~has_prefill & (decodes > 0))
    baseline_s[mixed] = np.minimum(alone_s, duration_s[mixed])
    return baseline_s, how


def decode_contexts(trace: Trace, pieces: Pieces) -> np.ndarray:
    """Tokens that the decodes of each iteration attend to besides themselves, (num_iterations,)."""
    is_step = trace.iterations["is_decode_step"] == 1
    runs = pieces.step >= 0
    first, count = pieces.step[runs], pieces.num_tokens[runs]
    prompts = trace.requests["num_prompt_tokens"][pieces.row[runs]]
    context = prompts + pieces.before[runs] - 1  # the newest token is the one that runs
    # a member's context at step s is (context - first) + s: sums of both parts, by differences
    fixed, members = np.zeros((2, int(is_step.sum()) + 1), "i8")
    for sums, values in ((fixed, context - first), (members, np.ones(len(first), "i8"))):
        np.add.at(sums, first, values)
        np.add.at(sums, first + count, -values)
    fixed, members = np.cumsum(fixed)[:-1], np.cumsum(members)[:-1]
    contexts = np.zeros(trace.num_iterations, "i8")
    contexts[is_step] = fixed + members * np.arange(len(members))
    single = is_decode(trace, pieces)
    np.add.at(contexts, trace.chunks["iteration"][single], trace.chunks["context"][single])
    return contexts


def _estimate(duration_s, decodes, contexts, mixed, alone) -> tuple[np.ndarray, str]:
    """Seconds of the decodes of `mixed` iterations, by those that ran `alone`."""
    num_alone = int(alone.sum())
    if not num_alone:
        raise ValueError(
            f"{len(mixed)} iterations mix prefill and decode and 0 run decodes alone, so what "
            "decodes cost can't be seen: pass the cost model of the run"
        )
    if num_alone < MIN_FITTED:
        seen = decodes[alone].astype("i8")
        distance = np.abs(decodes[mixed].astype("i8")[:, None] - seen[None, :])
        nearest = distance == distance.min(axis=1, keepdims=True)
        alone_s = [float(np.median(duration_s[alone][row])) for row in nearest]
        return np.array(alone_s), (
            f"median of the iterations of decodes alone with the nearest number of decodes, of "
            f"{num_alone}"
        )
    columns = np.column_stack([np.ones(len(decodes)), decodes, contexts + decodes])
    coefficients, error = _fit(columns[alone], duration_s[alone])
    return columns[mixed] @ coefficients, (
        f"fitted to {num_alone:,} iterations of decodes alone, median error {error:.1%}"
    )


def _fit(columns: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients >= 0 by least relative squares, outliers left out; median relative error."""
    kept = np.ones(len(seconds), bool)
    for _ in range(2):
        scaled = columns[kept] / seconds[kept, None]
        coefficients, _ = nonnegative_least_squares(scaled, np.ones(int(kept.sum())))
        errors = np.abs(columns @ coefficients / seconds - 1)
        kept = errors <= max(OUTLIER * float(np.median(errors)), 1e-9)
        if kept.sum() < MIN_FITTED:
            break
    return coefficients, float(np.median(errors))
