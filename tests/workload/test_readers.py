"""Files become workloads whole, or raise an error that says where to look."""

import json
import re
import time

import pytest

from coursekit.workload import read_workload

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
RESULT = {
    "duration": 3.0,
    "completed": 2,
    "request_throughput": 0.7,
    "start_times": [1000.5, 1000.0],
    "input_lens": [10, 20],
    "output_lens": [3, 4],
}


def written(folder, text, name="trace.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def columns(workload):
    prompts, outputs = workload.num_prompt_tokens, workload.num_output_tokens
    return workload.arrival_s.tolist(), prompts.tolist(), outputs.tolist()


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def mooncake(timestamp, input_length=10, output_length=3):
    return {
        "timestamp": timestamp,
        "input_length": input_length,
        "output_length": output_length,
        "hash_ids": [0, 1],
    }


def test_vidur_csv(tmp_path):
    path = written(tmp_path, VIDUR + "0.5,100,3\n0.25,200,4\n")
    assert columns(read_workload(path)) == ([0.25, 0.5], [200, 100], [4, 3])
    assert columns(read_workload(str(path))) == columns(read_workload(path))


def test_columns_in_any_order_and_others_ignored(tmp_path):
    text = "id, num_decode_tokens,arrived_at,num_prefill_tokens\nx,3,0.5,100\n"
    assert columns(read_workload(written(tmp_path, text))) == ([0.5], [100], [3])


@pytest.mark.parametrize("text", ["\ufeff" + VIDUR + "1,2,3\n", VIDUR.strip() + "\r\n1,2.0,3\r\n"])
def test_what_spreadsheets_write(tmp_path, text):
    assert columns(read_workload(written(tmp_path, text))) == ([1.0], [2], [3])


def test_own_columns_with_priorities(tmp_path):
    text = (
        "arrival_s,num_prompt_tokens,num_output_tokens,priority,priority_class\n"
        "1,2,3,-1,high\n0,4,5,2,low\n"
    )
    workload = read_workload(written(tmp_path, text))
    assert columns(workload) == ([0.0, 1.0], [4, 2], [5, 3])
    assert workload.priority.tolist() == [2, -1]
    assert workload.priority_class.tolist() == ["low", "high"]


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.json", "trace"])
def test_mooncake_milliseconds(tmp_path, name):
    path = written(tmp_path, lines(mooncake(0), mooncake(1500, 20)), name)
    assert columns(read_workload(path)) == ([0.0, 1.5], [10, 20], [3, 3])


def test_a_single_json_line_is_a_request(tmp_path):
    assert len(read_workload(written(tmp_path, lines(mooncake(0)), "trace.json"))) == 1


def test_request_log_starts_at_zero(tmp_path):
    rows = [
        {"request_id": f"bench-{i}", "input_toks": 9 + i, "output_toks": 5, "arrival_time": time_s}
        for i, time_s in enumerate([1787267980.5, 1787267980.25])
    ]
    path = written(tmp_path, lines(*rows), "requests.jsonl")
    assert columns(read_workload(path)) == ([0.0, 0.25], [10, 9], [5, 5])


@pytest.mark.parametrize("name", ["result.json", "result.jsonl"])
def test_vllm_bench_result(tmp_path, name):
    path = written(tmp_path, json.dumps(RESULT), name)
    assert columns(read_workload(path)) == ([0.0, 0.5], [20, 10], [4, 3])


@pytest.mark.parametrize(
    "result, reason",
    [
        ({"start_times": None}, "without start_times: .*--save-result --save-detailed"),
        ({"start_times": [0.0]}, r"equally long, got \[1, 2, 2\]"),
        ({"output_lens": [3, 0]}, "request 1: output_lens must be an integer >= 1, got 0"),
    ],
)
def test_bad_vllm_bench_results(tmp_path, result, reason):
    path = written(tmp_path, json.dumps(RESULT | result), "result.json")
    with pytest.raises(ValueError, match=reason):
        read_workload(path)


def test_a_vllm_bench_result_without_details(tmp_path):
    path = written(tmp_path, json.dumps({"duration": 3.0, "request_throughput": 0.7}), "r.json")
    with pytest.raises(ValueError, match="without start_times, input_lens, .*--save-detailed"):
        read_workload(path)


def test_appended_vllm_bench_results(tmp_path):
    with pytest.raises(ValueError, match="2 results.*--append-result"):
        read_workload(written(tmp_path, lines(RESULT, RESULT), "result.json"))


def parquet_file(folder, **columns):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / "trace.parquet")
    return folder / "trace.parquet"


def test_parquet(tmp_path):
    path = parquet_file(
        tmp_path, arrived_at=[0.5, 0.25], num_prefill_tokens=[1, 2], num_decode_tokens=[3, 4]
    )
    assert columns(read_workload(path)) == ([0.25, 0.5], [2, 1], [4, 3])


def test_bad_parquet(tmp_path):
    path = parquet_file(
        tmp_path, arrived_at=[0.5, 0.25], num_prefill_tokens=[1, None], num_decode_tokens=[3, 4]
    )
    with pytest.raises(ValueError, match="row 2: num_prefill_tokens must be a number, got None"):
        read_workload(path)
    with pytest.raises(ValueError, match="unknown columns: found arrived_at, x"):
        read_workload(parquet_file(tmp_path, arrived_at=[0.5], x=[1]))
    with pytest.raises(ValueError, match="broken.parquet can't be read as parquet"):
        read_workload(written(tmp_path, "no", "broken.parquet"))


@pytest.mark.parametrize(
    "row, reason",
    [
        ("soon,2,3", "arrived_at must be a number, got 'soon'"),
        (",2,3", "arrived_at must be a number, got ''"),
        ("-1,2,3", "arrived_at must be finite and >= 0, got -1"),
        ("nan,2,3", "arrived_at .* got nan"),
        ("inf,2,3", "arrived_at .* got inf"),
        ("1,0,3", "num_prefill_tokens must be an integer >= 1, got 0"),
        ("1,2.5,3", "num_prefill_tokens must be an integer >= 1, got 2.5"),
        ("1,2,nan", "num_decode_tokens must be an integer >= 1, got nan"),
        ("1,2,1e999", "num_decode_tokens must be an integer >= 1, got 1e999"),
        ("1,2", "2 fields, the header has 3"),
        ("1,2,3,4", "4 fields, the header has 3"),
    ],
)
def test_a_bad_row_of_a_csv_is_named_by_its_line(tmp_path, row, reason):
    path = written(tmp_path, VIDUR + "0,1,1\n\n" + row + "\n5,1,1\n")  # a blank line counts too
    with pytest.raises(ValueError, match=re.escape(str(path)) + ", line 4: " + reason):
        read_workload(path)


@pytest.mark.parametrize(
    "line, reason",
    [
        ("{", "not JSON: "),
        ("[1, 2, 3]", "must be an object, one request a line"),
        (json.dumps(mooncake("x")), "timestamp must be a number, got 'x'"),
        (json.dumps(mooncake(0, True)), "input_length must be a number, got True"),
        (json.dumps(mooncake(0, 5, None)), "output_length must be a number, got None"),
        ('{"timestamp": 0, "input_length": 5}', "no output_length: the first row has it"),
    ],
)
def test_a_bad_row_of_json_lines_is_named_by_its_line(tmp_path, line, reason):
    path = written(tmp_path, lines(mooncake(0)) + "\n" + line + "\n", "trace.jsonl")
    with pytest.raises(ValueError, match=re.escape(str(path)) + ", line 3: " + reason):
        read_workload(path)


@pytest.mark.parametrize("value, name", [("1.5", "priority"), ("x", "priority"), ("1", "")])
def test_bad_priorities(tmp_path, value, name):
    header = "arrival_s,num_prompt_tokens,num_output_tokens,priority,priority_class\n"
    text = header + f"1,2,3,{value},{name}\n"
    with pytest.raises(ValueError, match="line 2: priority"):
        read_workload(written(tmp_path, text))


def test_missing_columns_say_what_was_found_and_what_is_known(tmp_path):
    path = written(tmp_path, "arrived_at,tokens\n1,2\n")
    with pytest.raises(ValueError, match="found arrived_at, tokens; known are .*arrived_at, num_p"):
        read_workload(path)


def test_files_without_requests(tmp_path):
    with pytest.raises(ValueError, match="is empty: it needs .*num_prefill_tokens"):
        read_workload(written(tmp_path, " \n"))
    with pytest.raises(ValueError, match="holds no requests"):
        read_workload(written(tmp_path, VIDUR))


def test_a_file_that_is_no_text(tmp_path):
    (tmp_path / "trace.csv").write_bytes(VIDUR.encode() + b"1,2,\xff\n")
    with pytest.raises(ValueError, match="trace.csv, line 2: not UTF-8"):
        read_workload(tmp_path / "trace.csv")


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_workload(tmp_path / "none.csv")


def test_ten_thousand_rows_read_in_a_blink(tmp_path):
    rows = "".join(f"{row / 8},{row + 1},{row % 7 + 1}\n" for row in range(10_000))
    path, took_s = written(tmp_path, VIDUR + rows), []
    for _ in range(3):
        start = time.perf_counter()
        workload = read_workload(path)
        took_s.append(time.perf_counter() - start)
    assert min(took_s) < 0.1
    requests = workload.source().take(1e9)
    assert [(r.arrival_s, r.num_prompt_tokens, r.max_tokens) for r in requests] == [
        (row / 8, row + 1, row % 7 + 1) for row in range(10_000)
    ]
