"""A made folder of kernel grids: a device and a model that nobody has, of a known cost.

Every time is linear in each of its numbers, so that interpolation has no error to hide behind.
Its points are other than any real profiler's, and not the same behind every chunk size.
"""

from pathlib import Path

LAUNCH_US = 3.0
DENSE_US = {"qkv": (4.0, 0.5), "layernorm": (1.0, 0.01), "embedding": (7.0, 0.02)}
HEAD_US = {"lm_head": (90.0, 0.25), "sampler": (10.0, 0.5)}
SIZES = {10: (0, 100, 3000), 70: (0, 50, 200, 5000), 900: (0, 4000)}
DECODES, CONTEXTS = (1, 3, 40), (5, 77, 6000)


def chunk_us(size: float, context: float) -> float:
    return LAUNCH_US + 0.03 * size + 2e-4 * size * context


def decode_us(count: float, context: float) -> float:
    return LAUNCH_US + 0.2 * count + 1e-3 * count * context


def mixed_us(size: float, context: float, count: float, of_each: float) -> float:
    """Dearer than both apart, as one kernel for both is."""
    return chunk_us(size, context) + 1.5 * decode_us(count, of_each)


def linear(pair: tuple[float, float], number: float) -> float:
    return pair[0] + pair[1] * number


def write(folder: Path) -> Path:
    """Write the three tables and the profiler's own words into `folder`."""
    attention = [(0, 0, n, kv, decode_us(n, kv)) for n in DECODES for kv in CONTEXTS]
    for size, contexts in SIZES.items():
        for context in contexts:
            attention.append((size, context, 0, 0, chunk_us(size, context)))
            attention += [
                (size, context, n, kv, mixed_us(size, context, n, kv))
                for n in DECODES for kv in CONTEXTS
            ]  # fmt: skip
    header = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us"
    _table(folder / "attention.csv", header, attention)
    dense = [(name, n, linear(pair, n)) for name, pair in DENSE_US.items() for n in (1, 30, 2000)]
    _table(folder / "dense.csv", "layer,tokens,time_us", dense)
    heads = [(name, n, linear(pair, n)) for name, pair in HEAD_US.items() for n in (1, 64)]
    _table(folder / "per_sequence.csv", "layer,sequences,time_us", heads)
    text = "gpu: A Made One\nprofiled_at: '2031-02-03T04:05:06'\ngrid:\n  chunks: 10-900\n"
    (folder / "meta.yaml").write_text(text)
    return folder


def _table(path: Path, header: str, rows: list[tuple]) -> None:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]))
