"""Pictures of prefill and decode: against prompt length, and by chunk and batch.

They draw the tables that `PrefillDecodeAnalyzer` makes: measured points, or a formula's claim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from coursekit.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

_COLUMNS = ("prompt_length", "prefill_s", "decode_s")
# One look per source, in the order given: the first is the one to believe.
_LINES = ("-", "--", ":", "-.")
# Of one phase's lines: how much of its colour is left beside black (below 0) or paper.
_SHADES = (-0.45, -0.2, 0.0, 0.3, 0.5, 0.62)
_MARKERS = ("s", "o", "D", "^", "v", "P")


def against_prompt_length(*tables: DataFrame) -> Figure:
    """Prefill and decode seconds over prompt length in tokens, both axes logarithmic.

    Each table has the columns prompt_length, prefill_s and decode_s and says in
    `attrs["label"]` where it comes from. The first is drawn with solid lines and filled
    markers, those laid over it with broken lines and hollow markers.
    Raises ValueError if there is no table, more than four, or one lacks a column, rows or
    its label.
    """
    if not 1 <= len(tables) <= len(_LINES):
        raise ValueError(f"give 1 to {len(_LINES)} tables, got {len(tables)}")
    for table in tables:
        _check(table, _COLUMNS)
    figure = style.new_figure(10, 5.6)
    ax = figure.subplots()
    for table, line in zip(tables, _LINES, strict=False):
        _draw_source(ax, table, line, filled=table is tables[0])
    _scale_axes(ax, tables)
    style.dress_axes(
        ax, "prompt length (tokens)", "duration", "Prefill of the prompt, decode of one token"
    )
    ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=len(tables), frameon=False,
        fontsize=style.NOTE_SIZE,
    )
    labels = [table.attrs["label"] for table in tables]
    style.label_provenance(figure, " · ".join(dict.fromkeys(labels)))
    return style.describe(figure, " ".join(_in_words(table) for table in tables))


def _draw_source(ax: Axes, table: DataFrame, line: str, *, filled: bool) -> None:
    name = _short(table.attrs["label"])
    for phase, color, marker in (
        ("prefill", style.PREFILL, style.PREFILL_MARKER),
        ("decode", style.DECODE, style.DECODE_MARKER),
    ):
        ax.plot(
            table["prompt_length"], table[f"{phase}_s"], line, color=color, marker=marker,
            markersize=9, markerfacecolor=color if filled else style.PAPER, markeredgewidth=2,
            linewidth=2.5, label=f"{phase}, {name}", gid=f"{phase}, {name}",
        )


def _short(label: str) -> str:
    """A source's name for the legend; the full label stands at the figure's foot.

    "live (some device)" is "live", "simulated (module formula)" is "module formula".
    """
    kind, _, detail = label.partition(" (")
    return detail.rstrip(")") if kind == "simulated" and detail else kind


def _scale_axes(ax: Axes, tables: tuple[DataFrame, ...]) -> None:
    """Log scales that name the prompt lengths measured and times in readable units."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    lengths = sorted({int(length) for table in tables for length in table["prompt_length"]})
    if len(lengths) <= 10:
        ax.set_xticks(lengths)
    ax.xaxis.set_major_formatter(lambda value, _: style.format_count(value))
    ax.yaxis.set_major_formatter(lambda value, _: _decade(value))
    ax.minorticks_off()


def _decade(seconds: float) -> str:
    """A tick of the time axis: 0.001 is "1 ms"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 0.999:
            return f"{seconds * factor:,.0f} {unit}"
    return f"{seconds:.0e} s"


def _in_words(table: DataFrame) -> str:
    first, last = table.iloc[0], table.iloc[-1]
    ends = "; ".join(
        f"at {style.format_count(row['prompt_length'])} tokens prefill takes "
        f"{style.format_seconds(row['prefill_s'])} and one decode step "
        f"{style.format_seconds(row['decode_s'])}"
        for row in (first, last)
    )
    return f"Prefill and decode time against prompt length, {table.attrs['label']}: {ends}."


def by_chunk_and_batch(prefill: DataFrame, decode: DataFrame) -> Figure:
    """Prefill by prompt length, a line for each chunk size; decode by context, one for each batch.

    prefill, decode: of `prefill_table` and `decode_table`, of one source. Both axes are
    logarithmic. Raises ValueError for a table without rows, columns or label, or with more than
    six lines.
    """
    _check(prefill, ("prompt_length", "chunk_size", "one_shot", "prefill_s"))
    _check(decode, ("context_length", "batch_size", "step_s"))
    figure = style.new_figure(10, 5.4)
    left, right = figure.subplots(1, 2)
    chunked = prefill[~prefill["one_shot"]]
    lines = [("one shot", prefill[prefill["one_shot"]])]
    lines += [(f"chunks of {size:,}", rows) for size, rows in chunked.groupby("chunk_size")][::-1]
    _draw_lines(left, lines, "prompt_length", "prefill_s", style.PREFILL)
    style.dress_axes(left, "prompt length (tokens)", "prefill, all chunks", "Prefill")
    lines = [(f"batch of {size:,}", rows) for size, rows in decode.groupby("batch_size")]
    _draw_lines(right, lines, "context_length", "step_s", style.DECODE)
    style.dress_axes(right, "context of each request (tokens)", "one step", "Decode")
    figure.suptitle(caption(prefill, decode), fontsize=style.NOTE_SIZE, fontweight="bold")
    labels = dict.fromkeys([prefill.attrs["label"], decode.attrs["label"]])
    style.label_provenance(figure, " · ".join(labels))
    return style.describe(
        figure, f"{caption(prefill, decode)}. {_rows_in_words(prefill, decode)}"
    )


def caption(prefill: DataFrame, decode: DataFrame) -> str:
    """What the two tables come to, in a line."""
    long = prefill[prefill["prompt_length"] == prefill["prompt_length"].max()]
    whole, least = long[long["one_shot"]].iloc[0], long.loc[long["chunk_size"].idxmin()]
    factor = least["prefill_s"] / whole["prefill_s"]
    said = f"{style.format_count(whole['prompt_length'])} tokens in one shot: " + (
        style.format_seconds(whole["prefill_s"])
    )
    if not least["one_shot"]:
        said = (
            f"{style.format_count(whole['prompt_length'])} tokens in chunks of "
            f"{style.format_count(least['chunk_size'])}: {_times(factor)} one shot"
        )
    far = decode[decode["context_length"] == decode["context_length"].max()]
    one, many = (far.loc[getattr(far["batch_size"], f"idx{which}")()] for which in ("min", "max"))
    if one["batch_size"] == many["batch_size"]:
        return said
    return (
        f"{said}; a decode batch of {many['batch_size']:.0f}: "
        f"{_times(many['step_s'] / one['step_s'])} one of {one['batch_size']:.0f}"
    )


def _draw_lines(ax: Axes, lines: list[tuple], x: str, y: str, color: str) -> None:
    if len(lines) > len(_MARKERS):
        raise ValueError(
            f"at most {len(_MARKERS)} lines can be told apart, got {len(lines)}: take fewer chunk "
            "or batch sizes"
        )
    for (name, rows), shade, marker in zip(lines, _SHADES, _MARKERS):
        ax.plot(
            rows[x], rows[y], color=_shaded(color, shade), marker=marker, linewidth=2,
            markersize=7, label=name, gid=name,
        )  # fmt: skip
    scale_sizes(ax, sorted({int(value) for _, rows in lines for value in rows[x]}))
    ax.legend(frameon=False, fontsize=style.PROVENANCE_SIZE, loc="upper left")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.45)  # room for the legend


def _shaded(color: str, shade: float) -> tuple[float, ...]:
    """`color`, mixed with black if shade < 0, with paper if > 0."""
    from matplotlib.colors import to_rgb

    end = 0.0 if shade < 0 else 1.0
    return tuple(part + (end - part) * abs(shade) for part in to_rgb(color))


def scale_sizes(ax: Axes, sizes) -> None:
    """Logarithmic axes, with a tick for some of the sizes."""
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    powers = [size for size in sizes if int(size) & (int(size) - 1) == 0] or list(sizes)
    ax.set_xticks(powers[:: -(-len(powers) // 7)])
    ax.xaxis.set_major_formatter(lambda value, _: style.format_count(value))
    ax.yaxis.set_major_formatter(lambda value, _: _short_time(value))
    ax.yaxis.set_minor_formatter(lambda value, _: _minor(ax, value))
    ax.xaxis.minorticks_off()
    ax.tick_params(axis="y", which="minor", labelsize=style.PROVENANCE_SIZE)


def _minor(ax: Axes, value: float) -> str:
    """Names 2 and 5 of a decade where less than two decades are shown."""
    low, high = ax.get_ylim()
    digit = float(f"{value:.0e}".split("e")[0])
    return _short_time(value) if high / low < 100 and digit in (2, 5) else ""


def _short_time(seconds: float) -> str:
    """A tick: 0.02 is "20 ms"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 0.999:
            return f"{seconds * factor:,.0f} {unit}"
    return f"{seconds * 1e6:,.0f} µs"


def _times(factor: float) -> str:
    return "as long as" if abs(factor - 1) < 0.01 else f"{style.format_factor(factor)} times"


def _rows_in_words(prefill: DataFrame, decode: DataFrame) -> str:
    parts = [f"Prefill time by prompt length and chunk size, {prefill.attrs['label']}:"]
    parts += [
        f"{row.prompt_length:,} tokens "
        + ("in one shot" if row.one_shot else f"in chunks of {row.chunk_size:,}")
        + f" {style.format_seconds(row.prefill_s)};"
        for row in prefill.itertuples()
    ]
    parts.append("decode steps by context and batch size:")
    parts += [
        f"{row.batch_size} behind {row.context_length:,} tokens {style.format_seconds(row.step_s)};"
        for row in decode.itertuples()
    ]
    return f"{' '.join(parts).rstrip(';')}."


def _check(table: DataFrame, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table lacks {missing}, needs {list(columns)}: make it with PrefillDecodeAnalyzer"
        )
    if table.empty:
        raise ValueError("the table has 0 rows, at least 1 is needed: analyze some prompt lengths")
    if not table.attrs.get("label"):
        raise ValueError(
            "the table has no attrs['label']: say where its numbers come from, for example "
            "table.attrs['label'] = 'live (my laptop)'"
        )
