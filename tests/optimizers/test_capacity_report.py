"""`coursekit capacity`: a line per policy and budget, the same as the functions give."""

import pytest

from coursekit import cli
from coursekit.optimizers.capacity_report import Setting, simulated_capacity
from coursekit.optimizers.rules import sarathi_rule


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "w.csv"
    rows = [f"{0.2 * k},{400 + 37 * k % 900},{20 + k % 50}" for k in range(120)]
    path.write_text("arrival_s,num_prompt_tokens,num_output_tokens\n" + "\n".join(rows))
    return path


def test_each_setting_has_its_capacity_and_the_rule_is_named(trace, capsys):
    settings = ["--scheduler", "stall-free", "prefill-first", "--token-budget", "512"]
    command = ["capacity", "--trace", str(trace), "--slo-tbt", "0.06", *settings]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert "P99 TBT <= 0.06 s and median scheduling delay <= 2 s" in said
    from coursekit.workload import read_workload

    workload = read_workload(trace)
    lengths = (workload.num_prompt_tokens, workload.num_output_tokens)
    found = {
        name: simulated_capacity(Setting(name, 512), lengths, sarathi_rule(0.06), "a100", "llama-2-7b")
        for name in ("stall-free", "prefill-first")
    }
    assert found["stall-free"].rate_per_s > found["prefill-first"].rate_per_s > 0
    for name, capacity in found.items():
        line = next(line for line in said.splitlines() if line.startswith(name))
        assert f"{capacity.rate_per_s:.3g} requests/s, bracketed" in line


def test_a_setting_that_fails_is_said_and_is_exit_code_1(trace, capsys):
    command = ["capacity", "--trace", str(trace), "--slo-tbt", "0.06", "--token-budget", "0", "512"]
    assert cli.main(command) == 1
    said = capsys.readouterr().out
    assert "ValueError: token_budget must be >= 1, got 0" in said and "requests/s" in said


@pytest.mark.parametrize("rule", [["--rule", "sarathi"], ["--rule", "vidur", "--slo-tbt", "1"]])
def test_a_rule_with_the_wrong_limits_is_refused(trace, capsys, rule):
    assert cli.main(["capacity", "--trace", str(trace), *rule]) == 1
    assert "needs --slo-tbt SECONDS" in capsys.readouterr().err
