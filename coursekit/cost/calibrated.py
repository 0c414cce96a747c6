"""A cost model fitted to measured iterations: few terms, each with a meaning, none negative.

    seconds = iteration + token * tokens + token_over_knee * max(0, tokens - knee)
            + pair * pairs + context * context + sequence * sequences
            + prefill if there is any chunk

Up to the knee an iteration waits for its weights, and tokens are nearly free; above it every
token is computed for. Chunks of several tokens take attention kernels of their own, so a tiny
chunk makes a step of decodes longer by a fixed amount: the last term (10 ms of 46 in vLLM on two
cores of a CPU). It is not a black box: a coefficient that comes out far from the roofline's is a
question worth asking. What it was not fitted on it does not know, so it says when it is asked
beyond that.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coursekit.cost.base import Chunks

TERMS = ("iteration", "token", "token_over_knee", "pair", "context", "sequence", "prefill")
MIN_BATCHES = 14  # twice the terms
FORMAT = "coursekit cost profile 1"


class MeasuredIteration(NamedTuple):
    """One iteration and what it took: counts as in `CostModel.iteration_s`, seconds > 0.

    chunks: (request, num_tokens, context) each; the request may be None.
    """

    num_decodes: int
    decode_context: int
    chunks: Chunks
    seconds: float


class Counts(NamedTuple):
    """What the terms multiply, beside the knee.

    pairs: tokens of chunks times the tokens each attends to; context: tokens that decodes
    attend to, themselves included. A chunk of one token counts as a decode.
    """

    tokens: int
    pairs: int
    context: int
    sequences: int


@dataclass(frozen=True, slots=True)
class Residuals:
    """Relative errors |predicted - measured| / measured over `num_batches`."""

    median: float
    worst: float
    num_batches: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A fitted cost and where it is from. Coefficients are in seconds per unit of their term.

    residuals: on the batches of the fit; held_out: on batches that the fit did not see;
    lowest, highest: the calibrated range of each of `Counts`; software: version by name;
    clock_mhz: of the device while it was measured, if it tells; measured: the raw rows.
    """

    model: str
    device: str
    date: str
    software: dict[str, str]
    coefficients: dict[str, float]
    knee_tokens: int
    residuals: Residuals
    held_out: Residuals
    lowest: dict[str, int]
    highest: dict[str, int]
    clock_mhz: float | None = None
    measured: list[dict] = field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read what `save` wrote. Raises ValueError, with the file's name, for anything else."""
        try:
            raw = json.loads(Path(path).read_text())
            if raw.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT!r}")
            profile = cls.from_dict(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a cost profile ({error}); write one with CalibratedCost.save"
            ) from error
        return profile

    @classmethod
    def from_dict(cls, raw: dict) -> Profile:
        """From plain values, as `dataclasses.asdict` makes them. Raises ValueError for bad ones."""
        parts = {name: Residuals(**raw[name]) for name in ("residuals", "held_out")}
        profile = cls(**{**raw, **parts})
        profile._check()
        return profile

    def _check(self) -> None:
        self.coefficients.setdefault("prefill", 0.0)  # profiles before it was a term
        values = [self.coefficients[term] for term in TERMS]
        if not all(np.isfinite(value) and value >= 0 for value in values):
            raise ValueError(f"coefficients must be finite and >= 0, got {values}")
        for bounds in (self.lowest, self.highest):
            Counts(**bounds)


class CalibratedCost:
    """A cost model from a `Profile`; `fit` makes one from measured iterations.

    Beyond the calibrated range it goes on, warns once, and sets `extrapolated`, which marks
    the record of a run; set it to False before another run.
    """

    def __init__(self, profile: Profile):
        self.profile = profile
        self.extrapolated = False
        self._warned = False
        name = f"{profile.device}, {profile.model}"
        self.label = f"simulated ({name}, calibrated {profile.date})"
        lowest, highest = Counts(**profile.lowest), Counts(**profile.highest)
        self._constants = (
            *(profile.coefficients[term] for term in TERMS), profile.knee_tokens,
            lowest.tokens, highest.tokens, highest.pairs, highest.context, highest.sequences,
        )  # fmt: skip

    @classmethod
    def fit(
        cls,
        measured: Sequence[MeasuredIteration],
        model: str = "unknown model",
        device: str = "unknown device",
        date: str = "undated",
        software: dict[str, str] | None = None,
    ) -> CalibratedCost:
        """Least squares on relative errors, no coefficient below 0, the knee by trial.

        About 40 batches do, if decodes, contexts, and sizes and contexts of chunks vary
        independently. Raises ValueError for fewer than MIN_BATCHES, for impossible counts or
        times, and for batches that do not tell the terms apart.
        """
        counts, seconds = _read(measured)
        coefficients, knee = _fit(counts, seconds)
        profile = Profile(
            model, device, date, dict(software or {}),
            dict(zip(TERMS, map(float, coefficients), strict=True)), knee,
            _residuals(_features(counts, knee) @ coefficients, seconds),
            _held_out(counts, seconds),
            Counts(*counts.min(axis=0).tolist())._asdict(),
            Counts(*counts.max(axis=0).tolist())._asdict(),
        )  # fmt: skip
        return cls(profile)

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON."""
        self.profile.save(path)

    @classmethod
    def load(cls, path: str | Path) -> CalibratedCost:
        """From a profile's file. Raises FileNotFoundError, and ValueError for another file."""
        return cls(Profile.load(path))

    def iteration_s(self, num_decodes: int, decode_context: int, chunks: Chunks) -> float:
        """Seconds of one iteration; see `coursekit.cost.base`."""
        (
            iteration_s, token_s, over_s, pair_s, context_s, sequence_s, prefill_s, knee,
            least_tokens, most_tokens, most_pairs, most_context, most_sequences,
        ) = self._constants  # fmt: skip
        tokens = sequences = num_decodes
        context, pairs = decode_context + num_decodes, 0
        for _, size, before in chunks:
            tokens += size
            sequences += 1
            if size == 1:
                context += before + 1
            else:
                pairs += size * before + size * (size + 1) // 2
        if (
            tokens > most_tokens or context > most_context or pairs > most_pairs
            or sequences > most_sequences or tokens < least_tokens
        ):  # fmt: skip
            self._mark(Counts(tokens, pairs, context, sequences))
        seconds = iteration_s + token_s * tokens + pair_s * pairs + sequence_s * sequences
        if tokens > knee:
            seconds += over_s * (tokens - knee)
        if pairs:
            seconds += prefill_s
        return seconds + context_s * context

    def decode_run_s(
        self, num_decodes: int, decode_context: int, num_iterations: int
    ) -> np.ndarray:
        """Seconds of consecutive iterations of decodes alone; see `coursekit.cost.base`."""
        last = decode_context + num_decodes * (num_iterations - 1)
        self.iteration_s(num_decodes, last, ())  # the range check
        fixed = self.iteration_s(num_decodes, -num_decodes, ())  # without any context
        contexts = np.arange(num_iterations) * num_decodes + (decode_context + num_decodes)
        return fixed + self._constants[TERMS.index("context")] * contexts

    def _mark(self, counts: Counts) -> None:
        """Note that the times are no longer covered by measurement; say so once."""
        self.extrapolated = True
        if self._warned:
            return
        self._warned = True
        lowest, highest = self.profile.lowest, self.profile.highest
        outside = [
            f"{value} {name} (calibrated {lowest[name]}..{highest[name]})"
            for name, value in counts._asdict().items()
            if not lowest[name] <= value <= highest[name]
        ]
        warnings.warn(
            f"{self.label} is asked beyond what was measured: an iteration of "
            f"{', '.join(outside)}; times from here on are extrapolated. Calibrate on "
            "larger batches to avoid it",
            stacklevel=3,
        )


def count(num_decodes: int, decode_context: int, chunks: Chunks) -> Counts:
    """The counts of an iteration. Raises ValueError for impossible ones."""
    if num_decodes < 0 or decode_context < 0 or (decode_context and not num_decodes):
        raise ValueError(
            "num_decodes and decode_context must be >= 0, and decode_context 0 without "
            f"decodes, got {num_decodes} and {decode_context}"
        )
    for _, size, before in chunks:
        if size < 1 or before < 0:
            raise ValueError(
                f"a chunk needs num_tokens >= 1 and context >= 0, got {size} and {before}"
            )
    ones = [before + 1 for _, size, before in chunks if size == 1]
    pairs = [size * before + size * (size + 1) // 2 for _, size, before in chunks if size > 1]
    tokens = num_decodes + sum(size for _, size, _ in chunks)
    if not tokens:
        raise ValueError("an iteration needs at least 1 token, got none")
    context = decode_context + num_decodes + sum(ones)
    return Counts(tokens, sum(pairs), context, num_decodes + len(chunks))


def _read(measured: Sequence[MeasuredIteration]) -> tuple[np.ndarray, np.ndarray]:
    """Counts (num_batches, 4) and seconds (num_batches,), or ValueError naming the row."""
    if len(measured) < MIN_BATCHES:
        raise ValueError(
            f"a fit needs at least {MIN_BATCHES} measured batches, got {len(measured)}; "
            "about 40 are better: see measure_batches"
        )
    rows, seconds = [], []
    for index, (num_decodes, decode_context, chunks, took) in enumerate(measured):
        try:
            rows.append(count(num_decodes, decode_context, chunks))
        except ValueError as error:
            raise ValueError(f"measured batch {index}: {error}") from None
        if not 0 < took < np.inf:
            raise ValueError(f"measured batch {index}: seconds must be finite and > 0, got {took}")
        seconds.append(took)
    counts = np.array(rows, dtype=np.int64)
    _check_variety(counts)
    return counts, np.array(seconds)


def _check_variety(counts: np.ndarray) -> None:
    """Raise ValueError for batches from which the terms can't be told apart."""
    for name in ("pairs", "context"):
        if not counts[:, Counts._fields.index(name)].any():
            missing = "a chunk of 2 tokens or more" if name == "pairs" else "a decode"
            raise ValueError(f"no measured batch has {missing}; measure some that do")
    columns = np.column_stack([np.ones(len(counts)), counts])
    values = np.linalg.svd(columns / np.linalg.norm(columns, axis=0), compute_uv=False)
    if values[-1] < 1e-3 * values[0]:
        raise ValueError(
            f"the measured batches don't tell {', '.join(Counts._fields)} apart, as when all "
            "grow together; vary chunk sizes, contexts and numbers of requests independently"
        )


def _features(counts: np.ndarray, knee: int) -> np.ndarray:
    """What each of TERMS multiplies, (num_batches, num_terms)."""
    tokens, pairs, context, sequences = counts.T
    over = np.maximum(0, tokens - knee)
    columns = [np.ones(len(counts)), tokens, over, pairs, context, sequences, pairs > 0]
    return np.column_stack(columns)


def _fit(counts: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, int]:
    """Coefficients and knee of the smallest sum of squared relative errors.

    Knees are tried on a coarse grid between the batches' first and last decile of tokens,
    then on a fine one around the best. A knee at the most tokens is none, and comes first.
    """
    tokens = counts[:, 0]
    knee = int(tokens.max())
    best, error = _solve(counts, seconds, knee)
    low, high = np.quantile(tokens, [0.1, 0.9])
    for _ in range(2):
        grid = np.unique(np.geomspace(low, high, 20).astype(int))
        tries = [_solve(counts, seconds, int(each)) for each in grid]
        at = min(range(len(grid)), key=lambda index: tries[index][1])
        if tries[at][1] < error * (1 - 1e-9):
            (best, error), knee = tries[at], int(grid[at])
        low, high = grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]
    return best, knee


def _solve(counts: np.ndarray, seconds: np.ndarray, knee: int) -> tuple[np.ndarray, float]:
    """Coefficients for this knee, and the sum of their squared relative errors."""
    columns = _features(counts, knee) / seconds[:, None]
    return nonnegative_least_squares(columns, np.ones(len(seconds)))


def nonnegative_least_squares(columns: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """x >= 0 of the least |columns @ x - target|^2, and that square.

    columns: (rows, up to about 8 terms); target: (rows,). The solution is the plain
    least-squares solution over those of its coefficients that are above 0. With so few
    terms every such set can be tried, which needs no algorithm to be trusted.
    """
    num_terms = columns.shape[1]
    scale = np.linalg.norm(columns, axis=0)
    scale[scale == 0] = 1.0
    scaled = columns / scale
    best, best_error = np.zeros(num_terms), float(target @ target)
    for size in range(1, num_terms + 1):
        for chosen in combinations(range(num_terms), size):
            part = scaled[:, chosen]
            solution = np.linalg.lstsq(part, target, rcond=None)[0]
            if (solution < 0).any():
                continue
            missed = part @ solution - target
            error = float(missed @ missed)
            if error < best_error:
                best = np.zeros(num_terms)
                best[list(chosen)] = solution
                best_error = error
    return best / scale, best_error


def _residuals(predicted: np.ndarray, seconds: np.ndarray) -> Residuals:
    errors = np.abs(predicted / seconds - 1)
    return Residuals(float(np.median(errors)), float(errors.max()), len(errors))


def _held_out(counts: np.ndarray, seconds: np.ndarray, num_folds: int = 5) -> Residuals:
    """Errors on each fifth of the batches by a fit to the other four."""
    folds = np.random.default_rng(0).permutation(len(seconds)) % num_folds
    predicted = np.empty(len(seconds))
    for fold in range(num_folds):
        out = folds == fold
        coefficients, knee = _fit(counts[~out], seconds[~out])
        predicted[out] = _features(counts[out], knee) @ coefficients
    return _residuals(predicted, seconds)
