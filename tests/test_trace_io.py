"""Records on disk come back as they were, and look right to Chrome's viewer."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coursekit.trace import TABLES
from coursekit.trace_io import read_parquet, write_chrome, write_parquet
from tests.test_engine import run


@pytest.fixture(scope="module")
def trace():
    return run([(0.0, 10, 4), (2.0, 500, 2), (9.0, 5, 1)], until_s=9.5)


def test_parquet_comes_back_as_it_was(trace, tmp_path):
    again = read_parquet(write_parquet(trace, tmp_path / "run"))
    assert (again.label, again.info) == (trace.label, trace.info)
    for name in TABLES:
        for column, values in getattr(trace, name).items():
            other = getattr(again, name)[column]
            assert other.dtype == values.dtype
            assert np.array_equal(other, values, equal_nan=values.dtype == float), (name, column)


def test_an_empty_record_can_be_kept_too(tmp_path):
    again = read_parquet(write_parquet(run([]), tmp_path))
    assert again.num_iterations == again.num_requests == 0


def test_a_missing_table_and_a_strange_file_are_refused(trace, tmp_path):
    write_parquet(trace, tmp_path)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "chunks.parquet")
    with pytest.raises(ValueError, match="chunks.parquet is not a table of a record"):
        read_parquet(tmp_path)
    (tmp_path / "chunks.parquet").unlink()
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path)


def test_chrome_events_have_the_times_in_microseconds(trace, tmp_path):
    written = json.loads(write_chrome(trace, tmp_path / "run.json").read_text())
    events = [event for event in written["traceEvents"] if event["ph"] == "X"]
    iterations = [event for event in events if event["pid"] == 1]
    assert len(iterations) == trace.num_iterations
    first = iterations[0]
    assert first["ts"] == 0 and first["dur"] == pytest.approx(trace.iterations["end_s"][0] * 1e6)
    assert [event["name"] for event in iterations[:3]] == ["prefill", "decode", "mixed"]
    phases = [event["name"] for event in events if event["pid"] == 2 and event["tid"] == 0]
    assert phases == ["queued", "prefill", "decode"]
    assert written["otherData"]["label"] == trace.label


def test_pandas_gets_all_four_tables(trace):
    frames = trace.to_pandas()
    assert {name: len(frame) for name, frame in frames.items()} == {
        name: len(next(iter(getattr(trace, name).values()))) for name in TABLES
    }
