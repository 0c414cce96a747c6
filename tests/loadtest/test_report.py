"""`coursekit loadtest`: what it prints, what it writes, what it refuses."""

import json

import pytest

from coursekit import cli
from coursekit.trace_io import read_parquet
from tests.loadtest.scripted_server import serving

CSV = "arrival_s,num_prompt_tokens,num_output_tokens,priority_class\n0,30,4,high\n0.02,9,3,low\n0.04,7,2,low\n"


@pytest.fixture(scope="module")
def server():
    with serving({66: "full"}) as running:
        yield running


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "three.csv"
    path.write_text(CSV)
    return str(path)


def test_a_trace_is_sent_and_written_as_record_and_summary(server, csv, tmp_path, capsys):
    out, summary = tmp_path / "run", tmp_path / "sums" / "run.json"
    command = ["loadtest", "--url", server.url, "--trace", csv, "--out", str(out), "--json", str(summary)]
    assert cli.main([*command, "--device", "a test"]) == 0
    said = capsys.readouterr().out
    assert "class high" in said and "the client" in said.lower() and "finished" in said
    trace, found = read_parquet(out), json.loads(summary.read_text())
    assert trace.requests["num_output_tokens"].tolist() == [4, 3, 2]
    assert trace.label == found["label"]
    assert trace.label.startswith("live (server at 127.0.0.1:") and "scripted, a test, seen by" in trace.label
    assert found["requests"] == {
        "workload": 3, "finished": 3, "num_prompt_tokens": 46, "num_output_tokens": 9,
    }  # fmt: skip
    assert {row["metric"]: row["n"] for row in found["by_class"]["low"]}["itl_s"] == 3
    assert found["kinds"] == {"finished": 3} and found["client"]["num_loop_samples"] > 3


@pytest.mark.parametrize("how", [["--rate", "200"], ["--rate", "inf"], ["--users", "2"]])
def test_a_mix_is_sent_open_or_closed_and_failures_are_shown(server, how, capsys):
    lengths = ["--lengths", "20:3", "66:2"]
    assert cli.main(["loadtest", "--url", server.url, "--requests", "6", *lengths, *how]) == 0
    said = capsys.readouterr().out
    assert "HTTP 503" in said and "too many" in said and "class 20:3" in said


def test_a_run_in_which_nothing_finished_has_failed(server, capsys):
    command = ["loadtest", "--url", server.url, "--requests", "8", "--lengths", "66:2", "--rate", "inf"]
    assert cli.main(command) == 1
    assert "and 3 more" in capsys.readouterr().out


def test_a_rate_spreads_a_traces_requests_anew(server, csv, tmp_path, capsys):
    command = ["loadtest", "--url", server.url, "--trace", csv, "--rate", "inf"]
    assert cli.main([*command, "--json", str(tmp_path / "run.json")]) == 0
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["totals"]["span_s"] > 0 and "0 to 0 s" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "either --trace FILE or --requests N"),
        (["--requests", "3"], "--requests needs --rate R"),
        (["--requests", "3", "--rate", "1", "--users", "2"], "not both"),
        (["--requests", "3", "--rate", "0"], "rate must be finite and > 0, got 0"),
        (["--requests", "0", "--rate", "1"], "n must be >= 1, got 0"),
        (["--requests", "3", "--users", "1", "--lengths", "1000"], "PROMPT:OUTPUT"),
        (["--trace", "no-such.csv"], "no-such.csv"),
    ],
)
def test_what_cannot_be_is_one_line_on_stderr(server, options, message, capsys):
    assert cli.main(["loadtest", "--url", server.url, *options]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
