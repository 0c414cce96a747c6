"""What deploy/ ships: promtool accepts and tests it, it is complete, and it says what the package says."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from coursekit.monitor import Reading, default_rules
from coursekit.monitor.vllm_metrics import COUNTS, KV_USAGE, SPREADS
from tests.monitor.prom import DEPLOY, dashboard, dashboard_expressions, metric_names, needs_prometheus, rules
from tests.monitor.test_alerts import SICK

HERE = Path(__file__).parent
SETTINGS = ("max_num_batched_tokens", "max_num_seqs", "gpu_memory_utilization")


def promtool(*arguments: str, folder: Path = DEPLOY) -> subprocess.CompletedProcess:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


# --- Prometheus' own opinion ---


@needs_prometheus
def test_the_configuration_and_its_rules_are_accepted():
    ended = promtool("check", "config", "prometheus.yml")
    assert ended.returncode == 0 and "6 rules found" in ended.stdout, ended.stderr


@needs_prometheus
def test_the_alerts_do_what_their_unit_tests_say():
    ended = promtool("test", "rules", "alert_tests.yml", folder=HERE)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_prometheus
@pytest.mark.parametrize(
    "old, new",
    [
        ("histogram_quantile(0.99, sum by (le, instance, model_name) (rate(vllm:inter_token_latency", 
         "histogram_quantile(0.50, sum by (le, instance, model_name) (rate(vllm:inter_token_latency"),
        (") > 2.5", ") > 25"),
        (") > 1.25", ") > 12.5"),
        ("> 0.95", "> 0.999"),
        ("rate(vllm:num_preemptions_total[5m])) > 0.1", "vllm:num_preemptions_total) > 0.1"),
        ("latency_seconds_count[5m])) > 300", "latency_seconds_count[5m])) > 3"),
        ('up{job="vllm"} == 0', 'up{job="vllm"} == 1'),
        ("for: 30s", "for: 10m"),
        ("expr: vllm:kv_cache_usage_perc > 0.95\n        for: 2m\n        keep_firing_for: 2m",
         "expr: vllm:kv_cache_usage_perc > 0.95\n        for: 2m"),
        ("is {{ $value | humanizePercentage }} full", "is full"),
    ],
)  # fmt: skip
def test_a_planted_fault_in_a_rule_fails_its_unit_test(tmp_path, old, new):
    text = (DEPLOY / "alerts.yml").read_text()
    assert text.count(old) == 1, "the planted fault found nothing to change"
    (tmp_path / "alerts.yml").write_text(text.replace(old, new))
    tests = (HERE / "alert_tests.yml").read_text().replace("../../deploy/alerts.yml", "alerts.yml")
    (tmp_path / "alert_tests.yml").write_text(tests)
    ended = promtool("test", "rules", "alert_tests.yml", folder=tmp_path)
    assert ended.returncode != 0 and "FAILED" in ended.stdout + ended.stderr


# --- Rules ---


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_every_rule_waits_ranks_and_says_what_to_turn(rule):
    assert rule["for"] and rule["labels"]["severity"] in ("warning", "critical")
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert any(name in rule["annotations"]["runbook"] for name in SETTINGS)


def test_the_rules_are_those_of_the_package():
    """Same names, limits, waits and severities; KvCacheFull compares a share, VllmDown is 0 or 1."""
    shipped = {rule["alert"]: rule for rule in rules()}
    ours = {rule.name: rule for rule in default_rules()}
    assert set(shipped) == set(ours)
    for name, rule in ours.items():
        first_line = shipped[name]["expr"].splitlines()[0]
        seconds = {"2m": 120, "30s": 30}[shipped[name]["for"]]
        assert (rule.for_s, rule.severity) == (seconds, shipped[name]["labels"]["severity"])
        if name != "VllmDown":
            assert float(first_line.rpartition(" > ")[2]) == rule.raise_above


def test_every_rule_of_the_package_reads_something():
    assert all(rule.value(SICK) > rule.raise_above for rule in default_rules())
    assert all(not rule.value(Reading("test", 0.0)) > rule.raise_above for rule in default_rules())


# --- Dashboard ---


def test_every_panel_asks_the_datasource_variable():
    found = dashboard()
    assert found["templating"]["list"][0]["name"] == "datasource"
    for panel in found["panels"]:
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"]


def test_panels_do_not_overlap_and_stay_on_the_grid():
    taken = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24
        taken |= cells


def test_the_dashboard_shows_what_the_monitor_reads_and_what_the_rules_watch():
    shown = set().union(*map(metric_names, dashboard_expressions()))
    base = {name.removesuffix("_bucket").removesuffix("_count") for name in shown}
    watched = set().union(*(metric_names(rule["expr"]) for rule in rules()))
    assert {name.removesuffix("_bucket").removesuffix("_count") for name in watched} <= base
    read = {SPREADS[name] for name in ("itl", "ttft", "queue", "iteration_tokens")} | {*COUNTS.values(), KV_USAGE}
    assert read <= base


def test_a_budget_change_and_a_restart_are_marked():
    notes = {note["name"]: note for note in dashboard()["annotations"]["list"]}
    assert notes["Budget changed"]["target"]["tags"] == ["budget"]
    assert "process_start_time_seconds" in notes["Server restarted"]["expr"]


def test_the_ids_of_the_panels_differ():
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids)) >= 10


@pytest.mark.skipif(not os.environ.get("CI"), reason="a learner need not have it")
def test_ci_has_prometheus():
    assert shutil.which("promtool") and shutil.which("prometheus")
