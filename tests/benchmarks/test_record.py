"""Benchmark records: the page is what the files say, misses and blanks included."""

import importlib.util
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def record(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("record", FOLDER / "record.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "record", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def test_a_result_is_written_and_shown_with_its_miss(record, capsys):
    rows = [
        record.Row("speed", 2.0, 4.0, "s", "<= 3 s", True),
        record.Row("memory", 5.0, None, "GiB", "<= 2 GiB", False, "too many copies"),
        record.Row("on a GPU", None, None, "s", "<= 1 s", None),
    ]
    record.publish("thing", "python thing.py", rows)
    written = json.loads((record.FOLDER / "results" / "thing.json").read_text())
    assert [row["ratio"] for row in written["rows"]] == [0.5, None, None]
    assert {"name", "date", "machine", "software", "rows"} <= set(written)
    page = (record.FOLDER / "README.md").read_text()
    for text in ("`python thing.py`", "0.5", "**no**", "too many copies", "not yet measured"):
        assert text in page
    assert "| speed | 2 s | 4 s | 0.5 |" in capsys.readouterr().out


def test_the_page_in_the_repository_is_what_the_results_say():
    spec = importlib.util.spec_from_file_location("record_here", FOLDER / "record.py")
    module = importlib.util.module_from_spec(spec)
    __import__("sys").modules["record_here"] = module
    spec.loader.exec_module(module)
    assert (FOLDER / "README.md").read_text() == module.readme()
