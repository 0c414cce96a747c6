"""What tables of prefill and decode say, in one paragraph: the words follow the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from coursekit.analyzers.knee import Knee

LEAST_CHANGE = 0.01  # a difference below this, or below the repeats' spread, is none
NOISY = 0.15  # spread of repeats from which it is mentioned


def describe_prefill_decode(
    prefill: pd.DataFrame, decode: pd.DataFrame, knee: Knee, ridge: float | None = None
) -> str:
    """The findings of `PrefillDecodeAnalyzer`'s tables and knee.

    ridge: FLOP per byte at which the device's ceilings meet, if they are known.
    """
    sentences = [
        f"{_capital(prefill.attrs['label'])}.", _prompt_length(prefill), _chunking(prefill),
        _decoding(decode), _ratio(prefill, decode), _intensity(prefill, decode, ridge),
        describe_knee(knee), _reservations(prefill, decode, knee),
    ]  # fmt: skip
    return " ".join(sentence for sentence in sentences if sentence)


def describe_knee(knee: Knee) -> str:
    """Where an iteration stops being nearly free, or why that can't be said."""
    floor, largest = in_words(knee.floor_s), f"{knee.largest:,}"
    ridge = ""
    if knee.ridge_tokens == knee.ridge_tokens:
        ridge = f" The roofline's ridge lies at {knee.ridge_tokens:,.0f} tokens."
    if not knee.reason:
        return (
            f"The knee lies at {knee.tokens:,.0f} tokens: up to there an iteration takes about "
            f"{floor}, beyond it each token adds {in_words(knee.above_s)}.{ridge}"
        )
    if knee.reason == "free":
        why = "a token costs nothing here but its attention"
    elif knee.reason == "flat":
        why = (
            f"even {largest} tokens compute for less than the {floor} that an iteration takes "
            "anyway"
        )
    else:
        why = f"tokens cost from the first one on, {in_words(knee.below_s or knee.above_s)} each"
        if knee.doubled_at == knee.doubled_at:
            why += (
                f", and {knee.doubled_at:,.0f} of them compute for as long as the {floor} that "
                "an iteration takes anyway"
            )
    return f"No knee lies in the range of 1 to {largest} tokens: {why}.{ridge}"


def _prompt_length(prefill: pd.DataFrame) -> str:
    whole = prefill[prefill["one_shot"]]
    short, long = whole.iloc[0], whole.iloc[-1]
    said = f"A prompt of {long.prompt_length:,} tokens prefills in {in_words(long.prefill_s)}"
    if len(whole) == 1:
        return f"{said} in one shot."
    tokens, times = (long[name] / short[name] for name in ("prompt_length", "prefill_s"))
    shape = "in proportion to"
    if abs(times / tokens - 1) > 0.1:
        shape = "faster than" if times > tokens else "slower than"
    return (
        f"{said} in one shot, {_factor(times)} times as long as one of {short.prompt_length:,}: "
        f"time grows {shape} the {_factor(tokens)} times as many tokens."
    )


def _chunking(prefill: pd.DataFrame) -> str:
    chunked = prefill[~prefill["one_shot"]]
    if chunked.empty:
        return "No prompt was cut into chunks."
    long = chunked[chunked["prompt_length"] == chunked["prompt_length"].max()]
    length = long["prompt_length"].iloc[0]
    whole = prefill[prefill["one_shot"] & (prefill["prompt_length"] == length)].iloc[0]
    parts = [
        f"in chunks of {row.chunk_size:,} {_change(row.overhead, row.spread + whole.spread)}"
        for row in long.sort_values("chunk_size").itertuples()
    ]
    least = long.loc[long["chunk_size"].idxmin()]
    share = least.slowest_chunk_s / whole.prefill_s
    return (
        f"{_capital(_listed(parts))}; the slowest of {least.num_chunks:,} chunks of "
        f"{least.chunk_size:,} takes {in_words(least.slowest_chunk_s)}, {share:.1%} of the whole."
    )


def _change(overhead: float, noise: float) -> str:
    """What chunking costs, if it is more than the repeats differ by."""
    if abs(overhead) <= max(LEAST_CHANGE, noise):
        return f"it takes as long, within {max(LEAST_CHANGE, noise):.0%}"
    if overhead < 0:
        return f"it is {-overhead:.0%} faster"
    if overhead < 1:
        return f"it takes {overhead:.0%} longer"
    return f"it takes {_factor(1 + overhead)} times as long"


def _decoding(decode: pd.DataFrame) -> str:
    least, most = decode["batch_size"].min(), decode["batch_size"].max()
    near, far = decode["context_length"].min(), decode["context_length"].max()
    step_s = decode.set_index(["context_length", "batch_size"])["step_s"]
    said = (
        f"A decode step of {_requests(least)} behind {near:,} tokens takes "
        f"{in_words(step_s[near, least])}"
    )
    if far > near:
        said += f", behind {far:,} {in_words(step_s[far, least])}"
    if most == least:
        return f"{said}."
    times, requests = step_s[far, most] / step_s[far, least], most / least
    price = "as dear"
    if abs(times / requests - 1) > LEAST_CHANGE:
        price = "dearer" if times > requests else "cheaper"
    return (
        f"{said}; a batch of {most} behind {far:,} takes {_times(times)} one of {least}, so a "
        f"token in it is {price}, {in_words(step_s[far, most] / most)} each."
    )


def _ratio(prefill: pd.DataFrame, decode: pd.DataFrame) -> str:
    whole = prefill[prefill["one_shot"]].iloc[-1]
    step = decode.sort_values(["batch_size", "context_length"]).iloc[0]
    return (
        f"In the time of that prefill, {_requests(step.batch_size)} could take "
        f"{_factor(whole.prefill_s / step.step_s)} such steps."
    )


def _intensity(prefill: pd.DataFrame, decode: pd.DataFrame, ridge: float | None) -> str:
    whole = prefill[prefill["one_shot"]].iloc[-1]
    step = decode.sort_values(["batch_size", "context_length"]).iloc[0]
    if whole.intensity != whole.intensity:
        return ""
    said = (
        f"Prefill does {_factor(whole.intensity)} FLOP for each byte it moves, the decode step "
        f"{_factor(step.intensity)}"
    )
    if ridge is None:
        return f"{said}."
    bounds = [
        "computing" if value > ridge else "memory" for value in (whole.intensity, step.intensity)
    ]
    if bounds[0] == bounds[1]:
        return f"{said}: with the ridge at {ridge:,.0f}, {bounds[0]} limits both."
    said += f": with the ridge at {ridge:,.0f}, {bounds[0]} limits prefill, {bounds[1]} decode."
    return said


def _reservations(prefill: pd.DataFrame, decode: pd.DataFrame, knee: Knee) -> str:
    said = []
    spread = max(float(table["spread"].median()) for table in (prefill, decode, knee.table))
    if spread > NOISY:
        said.append(f"Repeats differ by {spread:.0%} in the median: small differences mean little.")
    num = int(prefill["extrapolated"].sum() + decode["extrapolated"].sum())
    if num:
        count = len(prefill) + len(decode)
        said.append(f"Beyond what was recorded, and so extrapolated: {num} of {count} times.")
    return " ".join(said)


def in_words(seconds: float) -> str:
    """A duration with three digits and its unit: "45.2 ms"."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if abs(seconds) < limit * 0.9995:
            return f"{float(f'{seconds * factor:.3g}'):,.15g} {unit}"
    return f"{float(f'{seconds:.3g}'):,.15g} s"


def _factor(value: float) -> str:
    """A ratio with two digits that count."""
    return f"{float(f'{value:.2g}'):,.15g}"


def _times(value: float) -> str:
    return "as long as" if abs(value - 1) < LEAST_CHANGE else f"{_factor(value)} times as long as"


def _requests(count: int) -> str:
    return "one request" if count == 1 else f"{count:.0f} requests"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
