"""Records on disk: parquet to keep and read again, Chrome's trace format to look at.

A record has four tables, so it is a folder with four parquet files, `iterations.parquet` and
so on, which any tool reads; label and settings are metadata of each.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from coursekit.trace import TABLES, Trace

_METADATA = b"coursekit"


def write_parquet(trace: Trace, folder: str | Path) -> Path:
    """Write `trace` into `folder`, made if need be, over a record that is there; return it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    about = json.dumps({"label": trace.label, "info": trace.info}).encode()
    for name in TABLES:
        table = pa.table(dict(getattr(trace, name)))
        pq.write_table(table.replace_schema_metadata({_METADATA: about}), folder / f"{name}.parquet")
    return folder


def read_parquet(folder: str | Path) -> Trace:
    """Read what `write_parquet` wrote.

    Raises FileNotFoundError if a table is missing, ValueError if a file is not of a record.
    """
    import pyarrow.parquet as pq

    tables, about = {}, {}
    for name, columns in TABLES.items():
        path = Path(folder) / f"{name}.parquet"
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if _METADATA not in metadata or set(columns) - set(table.column_names):
            raise ValueError(f"{path.name} is not a table of a record; write one with write_parquet")
        about = json.loads(metadata[_METADATA])
        tables[name] = {
            column: np.array(table[column].to_numpy(), dtype) for column, dtype in columns.items()
        }
    return Trace(label=about["label"], info=about["info"], **tables)


def write_chrome(trace: Trace, path: str | Path) -> Path:
    """Write `trace` as JSON for Perfetto (ui.perfetto.dev) or chrome://tracing; return the path.

    Chrome's Trace Event Format, "complete" events with times in microseconds: one track of
    iterations, and for each request a track with what it did: queued, prefill, decode.
    """
    path = Path(path)
    events = [_name(_ENGINE, "iterations"), _name(_REQUESTS, "requests")]
    events += _iteration_events(trace) + _request_events(trace)
    path.write_text(json.dumps({"traceEvents": events, "otherData": {"label": trace.label}}))
    return path


_ENGINE, _REQUESTS = 1, 2  # "process" ids of the format: groups of tracks


def _name(group: int, name: str) -> dict:
    return {"ph": "M", "pid": group, "name": "process_name", "args": {"name": name}}


def _event(group: int, track: int, name: str, start_s: float, end_s: float, args: dict) -> dict:
    times = {"ts": start_s * 1e6, "dur": (end_s - start_s) * 1e6}
    return {"ph": "X", "pid": group, "tid": track, "name": name, **times, "args": args}


def _iteration_events(trace: Trace) -> list[dict]:
    columns = {name: column.tolist() for name, column in trace.iterations.items()}
    events = []
    for row in zip(*columns.values()):
        args = dict(zip(columns, row))
        start_s, end_s = args.pop("start_s"), args.pop("end_s")
        name = "prefill" if args["num_prefill_tokens"] else "decode"
        name = "mixed" if name == "prefill" and args["num_decode_tokens"] else name
        events.append(_event(_ENGINE, 0, name, start_s, end_s, args))
    return events


def _request_events(trace: Trace) -> list[dict]:
    columns = ("request", "arrival_s", "first_scheduled_s", "first_token_s", "finished_s")
    phases = ("queued", "prefill", "decode")
    events = []
    for request, *times in zip(*(trace.requests[name].tolist() for name in columns)):
        for phase, start_s, end_s in zip(phases, times, times[1:]):
            if start_s == start_s and end_s == end_s:  # nan: it never came to that
                events.append(_event(_REQUESTS, request, phase, start_s, end_s, {}))
    return events
