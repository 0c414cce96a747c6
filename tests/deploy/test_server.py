"""The real server: it serves, is found again, and nothing of it outlives its program."""

import json
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

from coursekit.deploy import RunningServer, deploy_chunked_prefill, get_chunked_prefill_config
from coursekit.deploy.process import is_free
from tests.deploy.real_server import needs_vllm
from tests.deploy.small_server import all_gone, lives, python, tree_of

pytestmark = needs_vllm


def post(server, path: str, **body):
    """The open response to a request of the server's model."""
    data = json.dumps({"model": server.model, **body}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.api_key}"}
    request = urllib.request.Request(f"{server.base_url}{path}", data, headers)
    return urllib.request.urlopen(request, timeout=120)


def counter(server, name: str) -> float:
    """The sum of a counter over its labels."""
    lines = re.findall(rf"^{name}\{{.*\}} (\S+)$", server.metrics_text(), re.MULTILINE)
    assert lines, name
    return sum(map(float, lines))


def test_it_is_healthy_on_loopback_with_the_presets_settings(server):
    assert server.is_running
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.base_url)
    assert server.config == get_chunked_prefill_config("mixed_interactive")
    assert "Application startup complete" in server.log(200)
    assert "max_num_batched_tokens=512" in server.log_file.read_text()  # vLLM's own words


def test_it_completes_and_counts(server):
    before = counter(server, "vllm:generation_tokens_total")
    body = {"prompt": "Chunked prefill is", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    with post(server, "/v1/completions", **body) as response:
        answer = json.load(response)
    assert answer["usage"]["completion_tokens"] == 8 and answer["choices"][0]["text"]
    assert counter(server, "vllm:generation_tokens_total") >= before + 8


def test_it_streams_a_chat_token_by_token(server):
    body = {"messages": [{"role": "user", "content": "Count to five."}], "max_tokens": 12}
    with post(server, "/v1/chat/completions", **body, stream=True, ignore_eos=True) as response:
        lines = [line.decode().strip() for line in response if line.strip()]
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len([each for each in pieces if each["choices"][0]["delta"].get("content")]) > 1


def test_a_prompt_longer_than_the_budget_is_served(server):
    num_tokens = 3 * server.config["max_num_batched_tokens"].value
    before = counter(server, "vllm:prompt_tokens_total")
    prompt = list(range(100, 100 + num_tokens))
    with post(server, "/v1/completions", prompt=prompt, max_tokens=1) as response:
        assert json.load(response)["usage"]["prompt_tokens"] == num_tokens
    assert counter(server, "vllm:prompt_tokens_total") >= before + num_tokens


def test_the_same_settings_find_it_here_and_from_another_process(server):
    with deploy_chunked_prefill("mixed_interactive") as again:
        assert (again.pid, again.started) == (server.pid, False)
    source = (
        "from coursekit.deploy import deploy_chunked_prefill\n"
        "with deploy_chunked_prefill('mixed_interactive') as s: print(s.pid, s.started, s.stop())"
    )
    other = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert other.stdout.splitlines()[-1] == f"{server.pid} False False"
    assert server.is_running and server.metrics_text()


def test_one_attaches_by_its_address_and_never_stops_it(server):
    attached = RunningServer.attach(f"{server.base_url}/v1")
    assert (attached.model, attached.base_url) == (server.model, server.base_url)
    with attached:
        assert attached.is_running and "vllm:" in attached.metrics_text()
    assert not attached.stop() and server.is_running


def test_killing_the_program_that_started_it_leaves_no_process_and_no_port():
    """SIGKILL: no handler of that program can run; the engine's own processes go as well."""
    source = (
        "import sys, time; from coursekit.deploy import deploy_chunked_prefill\n"
        "s = deploy_chunked_prefill(max_model_len=512, log=lambda line: None)\n"
        "print(s.pid, s.base_url.rpartition(':')[2], flush=True); time.sleep(600)"
    )
    program = python(source, stdout=subprocess.PIPE)
    pid, port = map(int, program.stdout.readline().split())
    family = tree_of(pid)
    assert len(family) >= 3  # server, engine core, worker
    program.kill()
    assert all_gone(family)
    assert is_free("127.0.0.1", port)
    program.communicate()


def test_coursekit_serve_adapts_asks_for_its_key_and_stops_on_ctrl_c(monkeypatch):
    """The adaptive scheduler serves inside the server; exit code 0, and nothing is left."""
    monkeypatch.setenv("VLLM_API_KEY", "only for this test")
    command = [
        sys.executable, "-m", "coursekit", "serve", "mixed_interactive", "--adaptive",
        "--itl-target", "0.2", "--max-model-len", "2048",
    ]  # fmt: skip
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    program = subprocess.Popen(command, text=True, **pipes)
    said = []
    while not (said and said[-1].startswith("Stop it with Ctrl-C")):
        said.append(program.stdout.readline())
        assert said[-1], program.stderr.read()
    text = "".join(said)
    assert "chosen in each iteration" in text and "curl -N" in text
    assert "only for this test" not in text
    url = re.search(r"Base URL: (\S+)/v1", text)[1]
    with pytest.raises(ValueError, match="Unauthorized"):
        RunningServer.attach(url)
    server = RunningServer.attach(url, "only for this test")
    prompt = list(range(100, 1500))
    with post(server, "/v1/completions", prompt=prompt, max_tokens=4) as response:
        assert json.load(response)["usage"]["prompt_tokens"] == 1400
    family = tree_of(program.pid)
    assert len(family) >= 5  # the command, its guardian, server, engine core, worker
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "") and out.endswith("Stopped.\n")
    assert not any(lives(pid) for pid in family)
