"""Picture of prefill and decode time against prompt length, one source over another.

A source is a table made by `PrefillDecodeAnalyzer`: measured points, or a formula's claim.
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
        _check(table)
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


def _check(table: DataFrame) -> None:
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise ValueError(
            f"the table lacks {missing}, needs {list(_COLUMNS)}: make it with PrefillDecodeAnalyzer"
        )
    if table.empty:
        raise ValueError("the table has 0 rows, at least 1 is needed: analyze some prompt lengths")
    if not table.attrs.get("label"):
        raise ValueError(
            "the table has no attrs['label']: say where its numbers come from, for example "
            "table.attrs['label'] = 'live (my laptop)'"
        )
