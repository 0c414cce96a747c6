"""Starting, waiting, failing, finding what runs: with a small program in vLLM's place."""

import json
import os
import re
import signal
import threading
from dataclasses import replace

import pytest

from coursekit.deploy import RunningServer, ServerFailed, deploy_chunked_prefill, registry, server
from coursekit.deploy.failure import failed, remedy_in, stage
from coursekit.deploy.plan import ServerPlan
from coursekit.deploy.process import free_port, identity
from tests.deploy.small_server import all_gone, command_of, lives, pids, python

# Another program that starts or finds the small server, tells what it has, and waits for a line.
PROGRAM = """
import sys
from pathlib import Path
from coursekit.deploy import deploy_chunked_prefill
from coursekit.deploy.plan import ServerPlan
from tests.deploy.small_server import command_of
ServerPlan.command = lambda plan, port: command_of(port, Path(sys.argv[1]), sys.argv[2])
with deploy_chunked_prefill(log=lambda line: None) as server:
    print(server.pid, server.started, server.stop() if sys.argv[3] == "stop" else None, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Servers are known in a folder of this test's own."""
    monkeypatch.setenv("COURSEKIT_SERVERS", str(tmp_path / "servers"))
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.setattr("coursekit.deploy.plan.vllm_package", lambda: "vllm")  # named in the key
    monkeypatch.setattr("coursekit.deploy.command.vllm_package", lambda: "vllm")
    return tmp_path / "servers"


@pytest.fixture
def behave(monkeypatch, tmp_path):
    """Return a function that says how the small servers behave, one after another."""

    def set_to(*behaviours):
        left = list(behaviours)

        def command(plan, port):
            return command_of(port, tmp_path / "pids", left.pop(0) if len(left) > 1 else left[0])

        monkeypatch.setattr(ServerPlan, "command", command)

    set_to("good")
    return set_to


@pytest.fixture
def said():
    return []


@pytest.fixture
def deploy(behave, said):
    """`deploy_chunked_prefill`, of which nothing is left after the test."""
    running = []

    def run(*arguments, **options):
        running.append(deploy_chunked_prefill(*arguments, log=said.append, **options))
        return running[-1]

    yield run
    for each in running:
        each.stop()


def test_it_is_up_when_it_returns_and_gone_after_the_block(deploy, tmp_path):
    with deploy() as running:
        assert registry.is_healthy(running.base_url) and running.is_running and running.started
        both = pids(tmp_path / "pids")
        assert running.pid == both[0]
    assert not any(lives(pid) for pid in both)
    assert not running.is_running
    assert registry.entries() == []


def test_progress_is_told(deploy, said):
    running = deploy()
    assert "mixed_interactive" in said[0] and running.base_url in said[0]
    assert said[-1].startswith("Ready after")


def test_a_second_one_of_the_same_settings_is_the_first(deploy, said):
    first = deploy()
    with deploy() as second:
        assert (second.pid, second.base_url, second.started) == (first.pid, first.base_url, False)
        assert said[-1].startswith("Using the server that runs at")
    assert first.is_running  # who did not start it leaves it running


def test_stop_works_on_any_handle_of_the_program_that_started_it(deploy):
    deploy()
    again = deploy()  # a notebook's cell that ran twice
    assert again.stop() and not again.is_running
    assert not again.stop()


def test_other_settings_get_a_server_and_a_port_of_their_own(deploy, said):
    first, second = deploy(), deploy("batch_processing")
    assert first.base_url != second.base_url and first.is_running and second.is_running
    assert any("Also running" in line and first.base_url in line for line in said)


def test_a_port_that_is_asked_for_is_used_or_refused(deploy):
    port = free_port("127.0.0.1")
    assert deploy(port=port).base_url == f"http://127.0.0.1:{port}"
    assert not deploy(port=port).started
    other = free_port("127.0.0.1")
    assert deploy(port=other).started  # the same settings, asked for elsewhere
    with pytest.raises(ValueError, match=f"port {port} of 127.0.0.1 is taken"):
        deploy("batch_processing", port=port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_out_of_range_is_refused(port):
    with pytest.raises(ValueError, match=f"port must be in 1..65535, got {port}"):
        deploy_chunked_prefill(port=port)


def test_if_somebody_takes_the_port_another_is_tried(deploy, behave, said):
    behave("loses the race", "good")
    running = deploy()
    assert running.is_running
    assert any("Somebody took port" in line for line in said)
    assert len(registry.entries()) == 1


def test_with_a_port_that_was_asked_for_no_other_is_tried(deploy, behave):
    behave("loses the race", "good")
    with pytest.raises(ServerFailed, match="choose another port"):
        deploy(port=free_port("127.0.0.1"))


def test_a_server_that_fails_shows_its_last_lines_and_the_remedy(deploy, behave, tmp_path):
    behave("fails")
    with pytest.raises(ServerFailed) as error:
        deploy()
    assert "ended with exit code 1" in str(error.value)
    assert "    api_server.py: error: unrecognized arguments: --chunk-size 5" in str(error.value)
    assert "Remedy: leave --chunk-size 5 out" in str(error.value)
    assert all_gone(pids(tmp_path / "pids")) and registry.entries() == []


def test_a_server_that_takes_too_long_is_stopped(deploy, behave, said, monkeypatch, tmp_path):
    monkeypatch.setattr(server, "TELL_EVERY_S", 0.7)
    behave("sleeps")
    with pytest.raises(ServerFailed, match="not healthy within 2 s"):
        deploy(timeout_s=2)
    assert all_gone(pids(tmp_path / "pids"))
    assert len([line for line in said if " s: " in line]) >= 2  # it told how long it had been


def test_another_server_on_the_port_is_not_taken_for_it(deploy, behave, monkeypatch):
    """Somebody else answers there in good health; ours only sleeps."""
    other = deploy()
    port = int(other.base_url.rpartition(":")[2])
    behave("sleeps")
    monkeypatch.setattr(server, "is_free", lambda host, port: True)
    with pytest.raises(ServerFailed, match="not healthy within 1.5 s"):
        deploy("batch_processing", port=port, timeout_s=1.5)


def test_ctrl_c_while_it_starts_leaves_nothing(deploy, behave, tmp_path):
    behave("sleeps")

    def press_ctrl_c():
        pids(tmp_path / "pids")  # it is there
        os.kill(os.getpid(), signal.SIGINT)

    interrupt = threading.Thread(target=press_ctrl_c)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        deploy(timeout_s=60)
    interrupt.join()
    assert not any(lives(pid) for pid in pids(tmp_path / "pids"))


# --- Found again, by other programs as well ---


def program_of(tmp_path, what="stay"):
    return python(PROGRAM, tmp_path / "pids", "good", what, stdin=-1, stdout=-1)


def test_another_program_finds_it_and_can_not_stop_it(deploy, tmp_path, monkeypatch):
    plain_packages(monkeypatch)
    running = deploy()
    for what in ("stay", "stop"):
        other = program_of(tmp_path, what)
        assert other.stdout.readline().split()[:2] == [str(running.pid), "False"]
        other.communicate("\n")
        assert running.is_running and registry.is_healthy(running.base_url)


def test_a_server_goes_with_its_program_and_a_new_one_is_started(deploy, tmp_path, monkeypatch):
    plain_packages(monkeypatch)
    other = program_of(tmp_path)
    pid = int(other.stdout.readline().split()[0])
    first = deploy()
    assert (first.pid, first.started) == (pid, False)
    other.kill()
    assert all_gone([pid])
    other.communicate()
    second = deploy()
    assert second.started and second.pid != pid
    assert not first.is_running


def test_of_two_that_start_at_once_one_starts_and_the_other_finds(behave, tmp_path):
    programs = [program_of(tmp_path) for _ in range(2)]
    said = [program.stdout.readline().split() for program in programs]
    assert said[0][0] == said[1][0]
    assert sorted(line[1] for line in said) == ["False", "True"]
    for program in programs:
        program.communicate("\n")


def test_waiting_for_another_start_has_its_limit(folder):
    with registry.one_start_at_a_time("key", 1, print):
        told = []
        with pytest.raises(TimeoutError, match="another process has been starting this server"):
            with registry.one_start_at_a_time("key", 0.2, told.append):
                pass
        assert told == ["Another process is starting this server; waiting for it ..."]


@pytest.mark.parametrize("spoil", [
    lambda entry: replace(entry, pid=pid_of_nobody()),  # ended
    lambda entry: replace(entry, began=entry.began - 5),  # its pid is another process's by now
])  # fmt: skip
def test_a_stale_file_is_ignored_and_removed(deploy, spoil):
    deploy()
    [entry] = registry.entries()
    stale = spoil(entry)
    registry.save(stale)
    assert registry.entries() == []
    assert not stale.path.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "only"}'])
def test_a_file_that_can_not_be_read_is_removed(folder, text):
    registry.folder()
    (folder / "key-1.json").write_text(text)
    assert registry.entries() == []
    assert not (folder / "key-1.json").exists()


def test_the_folder_is_for_this_user_alone(folder):
    assert registry.folder().stat().st_mode & 0o077 == 0


def test_what_is_written_down_holds_no_key(deploy, folder):
    deploy(api_key="a secret")
    written = "".join(path.read_text() for path in folder.glob("*.json"))
    assert json.loads(written)["model"] and "secret" not in written


def test_old_logs_make_room(folder):
    old, recent = registry.new_log("old", 1), registry.new_log("recent", 2)
    os.utime(old, (0, 0))
    registry.new_log("new", 3)
    assert not old.exists() and recent.exists()


# --- Words ---


def test_attaching_to_nobody_says_so():
    with pytest.raises(ValueError, match="no OpenAI server answers at http://127.0.0.1"):
        RunningServer.attach(f"http://127.0.0.1:{free_port('127.0.0.1')}")


@pytest.mark.parametrize("line, word", [
    ("max_num_batched_tokens (512) is smaller than max_model_len (8192). This", "raise max_num_b"),
    ("0.2 GiB KV cache is needed, which is larger than the available KV cache memory (0.1 GiB)",
     "VLLM_CPU_KVCACHE_SPACE"),
    ("RuntimeError: Failed to infer device type", "make doctor"),
    ("ModuleNotFoundError: No module named 'uvloop'", "install uvloop"),
    ("all is well", "^$"),
])  # fmt: skip
def test_known_errors_have_their_remedy(line, word):
    assert re.search(word, remedy_in(f"Traceback\n{line}\n"))


def test_an_unknown_error_says_where_to_look(tmp_path):
    error = failed("vLLM ended", tmp_path / "none.log")
    assert "(nothing)" in str(error)
    assert f"see vLLM's own words in {tmp_path / 'none.log'}" in str(error)


def test_the_stage_is_what_vllm_said_last_without_the_head(tmp_path):
    log = tmp_path / "log"
    log.write_text("(Worker pid=7) INFO 11-24 10:24:59 [default_loader.py:501] Loading weights\n")
    assert stage(log) == "Loading weights"


def plain_packages(monkeypatch):
    """The other program looks at the real package, so this one has to as well."""
    from importlib.metadata import PackageNotFoundError, version

    for name in ("vllm", "vllm-cpu"):
        try:
            version(name)
        except PackageNotFoundError:
            continue
        monkeypatch.setattr("coursekit.deploy.plan.vllm_package", lambda: name)
        return
    pytest.skip("vLLM is not installed here")


def pid_of_nobody() -> int:
    """A pid that no process has."""
    ended = python("pass")
    ended.wait()
    assert identity(ended.pid) is None
    return ended.pid
