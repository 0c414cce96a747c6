"""Workloads from files: Vidur, Mooncake, `vllm bench serve`, request logs, and our own columns.

A file is read whole or not at all: a bad row raises an error that names its line.
Nothing here imports pandas, and pyarrow only for parquet: a small CSV is read in milliseconds.
"""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

from coursekit.workload.workload import Workload


@dataclass(frozen=True, slots=True)
class _Format:
    """The columns a format keeps arrival, prompt and output length in."""

    name: str
    columns: tuple[str, str, str]
    unit_s: float = 1.0  # seconds to one unit of its arrivals
    from_first: bool = False  # its clock starts anywhere: count from the first arrival


_FORMATS = (
    _Format("coursekit", ("arrival_s", "num_prompt_tokens", "num_output_tokens")),
    _Format("Vidur", ("arrived_at", "num_prefill_tokens", "num_decode_tokens")),
    _Format("Mooncake", ("timestamp", "input_length", "output_length"), unit_s=1e-3),
    _Format("request log", ("arrival_time", "input_toks", "output_toks"), from_first=True),
    _Format("vllm bench serve", ("start_times", "input_lens", "output_lens"), from_first=True),
)


@dataclass(slots=True)
class _Table:
    """A file's columns, and how to name the place of each row in it."""

    path: Path
    columns: dict[str, list]
    places: list[int]
    unit: str = "line"

    def error(self, row: int, reason: str) -> ValueError:
        return ValueError(f"{self.path}, {self.unit} {self.places[row]}: {reason}")


def read_workload(path: str | Path) -> Workload:
    """The workload in `path`: CSV, JSON lines, JSON or parquet, told apart by suffix and content.

    Known columns (others are ignored; `priority` and `priority_class` are read where present):
    Vidur's `arrived_at` (seconds), `num_prefill_tokens`, `num_decode_tokens`; Mooncake's
    `timestamp` (milliseconds), `input_length`, `output_length`; a request log's `arrival_time`
    (seconds on any clock), `input_toks`, `output_toks`; `Workload`'s own `arrival_s`,
    `num_prompt_tokens`, `num_output_tokens`; and the result file of `vllm bench serve`, saved
    with `--save-detailed`. Logs and results are shifted so that the first arrival is at 0 s.

    Raises FileNotFoundError, and ValueError naming the file, the line (1-based, the header
    counts; parquet rows are 1-based, a vLLM result's requests 0-based) and the reason.
    """
    path = Path(path)
    data = path.read_bytes()
    if path.suffix == ".parquet" or data[:4] == b"PAR1":
        return _workload(_parquet_table(path, data))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text: save it as UTF-8") from None
    if not text.strip():
        raise ValueError(f"{path} is empty: it needs {_known()}")
    if path.suffix in (".json", ".jsonl") or (path.suffix != ".csv" and text.lstrip()[0] in "{["):
        return _workload(_json_table(path, text))
    return _workload(_csv_table(path, text))


def _csv_table(path: Path, text: str) -> _Table:
    reader = csv.reader(io.StringIO(text, newline=""))
    rows, lines = [], []
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    header = [name.strip() for name in rows.pop(0)]
    table = _Table(path, {}, lines[1:])
    for place, row in enumerate(rows):
        if len(row) != len(header):
            raise table.error(place, f"{len(row)} fields, the header has {len(header)}")
    columns = zip(*rows, strict=True) if rows else [()] * len(header)
    table.columns = dict(zip(header, columns, strict=True))
    return table


def _parquet_table(path: Path, data: bytes) -> _Table:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        names = file.schema_arrow.names
        table = file.read([name for name in names if name in _WANTED])
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} can't be read as parquet: {error}") from None
    columns = dict.fromkeys(names, ()) | table.to_pydict()
    return _Table(path, columns, list(range(1, table.num_rows + 1)), "row")


def _json_table(path: Path, text: str) -> _Table:
    if path.suffix != ".jsonl":
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            whole = None  # JSON lines under another name, or broken: the lines will tell
        if isinstance(whole, dict) and _is_result(whole):
            return _bench_table(path, whole)
    rows, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(_json_row(path, number, line))
            lines.append(number)
    if _is_result(rows[0]):
        if len(rows) > 1:
            raise ValueError(f"{path} holds {len(rows)} results: keep one, don't --append-result")
        return _bench_table(path, rows[0])
    wanted = [name for name in rows[0] if name in _WANTED]
    table = _Table(path, dict.fromkeys(rows[0], ()), lines)
    for place, row in enumerate(rows):
        if missing := [name for name in wanted if name not in row]:
            raise table.error(place, f"no {', '.join(missing)}: the first row has it")
    table.columns |= {name: [row[name] for row in rows] for name in wanted}
    return table


def _json_row(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}: not JSON: {error.msg}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: must be an object, one request a line")
    return row


def _is_result(row: dict) -> bool:
    return "input_lens" in row or "request_throughput" in row  # the latter is always saved


def _bench_table(path: Path, result: dict) -> _Table:
    """The per-request lists of a `vllm bench serve` result (vLLM, `benchmarks/serve.py`)."""
    names = _FORMATS[-1].columns
    if missing := [name for name in names if not isinstance(result.get(name), list)]:
        raise ValueError(
            f"{path} is a result of vllm bench serve without {', '.join(missing)}: run it again "
            "with --save-result --save-detailed, which saves them for every request"
        )
    lengths = [len(result[name]) for name in names]
    if len(set(lengths)) > 1:
        raise ValueError(f"{path}: {', '.join(names)} must be equally long, got {lengths}")
    columns = {name: result[name] for name in names}
    return _Table(path, columns, list(range(lengths[0])), "request")


def _workload(table: _Table) -> Workload:
    form = _format_of(table)
    if not table.places:
        raise ValueError(f"{table.path} holds no requests: add a row to it")
    arrival_s, prompts, outputs = (table.columns[name] for name in form.columns)
    arrival_s = _seconds(table, form, arrival_s)
    priority = table.columns.get("priority")
    priority_class = table.columns.get("priority_class")
    return Workload(
        arrival_s,
        _token_counts(table, form.columns[1], prompts),
        _token_counts(table, form.columns[2], outputs),
        None if priority is None else _priorities(table, priority),
        None if priority_class is None else _names(table, priority_class),
    )


def _format_of(table: _Table) -> _Format:
    for form in _FORMATS:
        if all(name in table.columns for name in form.columns):
            return form
    found = ", ".join(table.columns) or "none"
    raise ValueError(f"{table.path} has unknown columns: found {found}; known are {_known()}")


def _known() -> str:
    return "; ".join(f"{', '.join(form.columns)} ({form.name})" for form in _FORMATS)


def _seconds(table: _Table, form: _Format, values: list) -> list[float]:
    name, unit_s, seconds = form.columns[0], form.unit_s, []
    for row, value in enumerate(values):
        time = _number(table, row, name, value)
        if not 0 <= time < math.inf:
            raise table.error(row, f"{name} must be finite and >= 0, got {value}")
        seconds.append(time * unit_s)
    if form.from_first:
        first = min(seconds)
        return [time - first for time in seconds]
    return seconds


def _token_counts(table: _Table, name: str, values: list) -> list[int]:
    counts = []
    for row, value in enumerate(values):
        number = _number(table, row, name, value)
        if not (1 <= number < 2**53 and number == int(number)):
            raise table.error(row, f"{name} must be an integer >= 1, got {value}")
        counts.append(int(number))
    return counts


def _priorities(table: _Table, values: list) -> list[int]:
    priorities = []
    for row, value in enumerate(values):
        number = _number(table, row, "priority", value)
        if not (abs(number) < 2**53 and number == int(number)):
            raise table.error(row, f"priority must be an integer, got {value}")
        priorities.append(int(number))
    return priorities


def _names(table: _Table, values: list) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str) or not value:
            raise table.error(row, f'priority_class must be a name such as "high", got {value!r}')
    return list(values)


def _number(table: _Table, row: int, name: str, value) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise table.error(row, f"{name} must be a number, got {value!r}") from None


_WANTED = {name for form in _FORMATS for name in form.columns} | {"priority", "priority_class"}
