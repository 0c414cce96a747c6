"""Reading somebody's record: two clocks laid over each other, and prompts that are the run's."""

import json

import numpy as np
import pytest

from coursekit.analyzers.recorded_run import read_recorded_run
from tests.analyzers import recorded


@pytest.fixture
def folder(tmp_path):
    return recorded.write(tmp_path, count=8)


def test_all_times_count_from_the_first_arrival(folder):
    run = read_recorded_run(folder)
    assert run.arrival_s[0] == 0 and run.queued_s[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(run.arrival_s) > 0).all()
    for earlier, later in (("arrival_s", "scheduled_s"), ("scheduled_s", "first_token_s"),
                           ("first_token_s", "last_token_s")):  # fmt: skip
        assert (getattr(run, later) - getattr(run, earlier) > -1e-6).all()


def test_metrics_are_those_of_the_stamps(folder):
    run, rows = read_recorded_run(folder), _rows(folder)
    metrics, row = run.metrics(), rows[3]
    tpot_s = (row["last_token_ts"] - row["first_token_ts"]) / (row["output_toks"] - 1)
    assert metrics["tpot_s"][3] == pytest.approx(tpot_s)
    assert metrics["e2e_s"][3] == pytest.approx(
        metrics["ttft_s"][3] + tpot_s * (row["output_toks"] - 1)
    )


def test_the_first_iterations_are_those_of_the_first_request_alone(folder):
    first_s = read_recorded_run(folder).first_iterations_s()
    assert first_s == pytest.approx([recorded.WARM_S], abs=1e-5)


def test_its_label_says_where_and_when(folder):
    assert read_recorded_run(folder).label == "recorded (A Made One, vLLM 0.19.0, 2031-02-03)"


def test_prompts_are_the_runs_or_have_nothing_in_common(folder):
    known = read_recorded_run(folder, folder / "prompts.jsonl").workload().prompt_token_ids
    made_up = read_recorded_run(folder).workload().prompt_token_ids
    assert known[5][:16] == known[4][:16] and made_up[5][:16] != made_up[4][:16]
    assert list(map(len, known)) == list(map(len, made_up))


def test_other_prompts_are_refused_by_their_hash(folder):
    path = folder / "prompts.jsonl"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(ValueError, match="is not the run's workloads/prompts.jsonl: its SHA-256"):
        read_recorded_run(folder, path)


def test_a_request_without_a_stamp_is_refused_by_number(folder):
    rows = _rows(folder)
    rows[2]["first_token_ts"] = None
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="request 2 has no number for 'first_token_ts', got None"):
        read_recorded_run(folder)


def test_a_record_without_requests_is_refused(folder):
    (folder / "requests.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="has 0 requests"):
        read_recorded_run(folder)


def _rows(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
