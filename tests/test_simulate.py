"""A simulation in one call, and the command that makes one."""

import pytest

from coursekit import cli
from coursekit.simulate import make_scheduler, num_blocks_that_fit, simulate
from coursekit.trace_io import read_parquet
from coursekit.workload import Workload

CSV = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,600,20\n0.1,50,30\n0.2,2000,5\n"
NAMES = [
    "decode-first", "interleaved", "orca-mixed", "prefill-first", "priority-aware",
    "priority-token-budget", "stall-free", "token-budget",
]  # fmt: skip


@pytest.fixture
def workload():
    return Workload([0.0, 0.1, 0.2], [600, 50, 2000], [20, 30, 5])


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "three.csv"
    path.write_text(CSV)
    return path


@pytest.mark.parametrize("scheduler", NAMES)
def test_every_scheduler_serves_every_request(workload, scheduler):
    trace = simulate(workload, scheduler)
    assert trace.requests["num_output_tokens"].tolist() == [20, 30, 5]
    assert (trace.requests["finished_s"] > trace.requests["arrival_s"]).all()
    assert trace.label.startswith("simulated (")


def test_the_command_prints_the_metrics_and_writes_the_record(csv, tmp_path, capsys):
    out, chrome = tmp_path / "run", tmp_path / "run.json"
    command = ["simulate", "--trace", str(csv), "--hardware", "a100", "--model", "llama-2-7b",
               "--scheduler", "stall-free", "--slo-itl", "0.5", "--out", str(out),
               "--chrome", str(chrome)]  # fmt: skip
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.strip()}
    assert rows["ttft"][1:3] == ["requests", "3"] and rows["itl"][1:3] == ["tokens", "52"]
    assert float(rows["slo_fraction"][1]) == 1.0
    trace = read_parquet(out)
    assert trace.info["scheduler"]["name"] == "StallFree" and trace.info["model"] == "llama-2-7b"
    assert chrome.stat().st_size > 1000


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("--scheduler", "lifo", "unknown scheduler 'lifo'; known: decode-first"),
        ("--hardware", "abacus", "abacus"),
        ("--model", "gpt-9", "gpt-9"),
        ("--hardware", "t4", "t4|T4"),
        ("--token-budget", "0", "token_budget must be >= 1, got 0"),
        ("--trace", "no-such-file.csv", "no-such-file.csv"),
    ],
)
def test_what_cannot_be_is_one_line_on_stderr(csv, capsys, option, value, message):
    import re

    model = [] if option == "--model" else ["--model", "llama-2-13b"]
    assert cli.main(["simulate", "--trace", str(csv), *model, option, value]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(message, said)


def test_kv_blocks_are_what_memory_leaves_beside_the_weights():
    # 0.9 of 80 GiB less 12.55 GiB of weights, in blocks of 16 tokens of 0.5 MiB
    assert num_blocks_that_fit("a100", "llama-2-7b", 16) == pytest.approx(7600, rel=0.02)


def test_the_record_of_a_class_aware_run_says_what_each_class_got(workload):
    settings = simulate(workload, "priority-aware").info["scheduler"]
    assert settings["priority_chunk_sizes"]["high"] == 256
    assert set(settings["shares"]) == {"high", "medium", "low"}


def test_the_interleaved_scheduler_takes_the_budget_as_its_chunk_size():
    assert make_scheduler("interleaved", token_budget=77, max_num_seqs=4).chunk_size == 77
