"""Whatever ends the program that started a server, nothing of the server is left."""

import os
import signal
import socket
import sys

import psutil
import pytest


from coursekit.deploy.process import ServerProcess, free_port, identity, is_free, started_here
from tests.deploy.small_server import all_gone, command_of, comes_true, lives, pids, python

# A program that starts the small server and then does what its last argument says.
PROGRAM = """
import os, sys, time
from pathlib import Path
from coursekit.deploy.process import ServerProcess
process = ServerProcess(sys.argv[3:], Path(sys.argv[2]))
while not Path(sys.argv[2]).with_name("pids").exists():
    time.sleep(0.05)
print(process.guardian.pid, flush=True)
if sys.argv[1] == "forks":
    if os.fork() == 0:  # holds a copy of the guardian's pipe, and all that the parent knew
        process.stop()
        time.sleep(600)
        os._exit(0)
if sys.argv[1] == "raises":
    raise RuntimeError("a mistake in the learner's program")
if sys.argv[1] != "ends":
    time.sleep(600)
"""

IMPATIENT = """
import sys
from coursekit.deploy import guardian
guardian.GRACE_S = guardian.CHILDREN_GRACE_S = 0.3
sys.exit(guardian.main(sys.argv[1], sys.argv[2:]))
"""


@pytest.fixture
def port():
    return free_port("127.0.0.1")


@pytest.fixture
def started(tmp_path, port):
    """Return a function that starts the small server; whatever is left of it ends with the test."""
    running = []

    def start(behaviour="good"):
        process = ServerProcess(command_of(port, tmp_path / "pids", behaviour), tmp_path / "log")
        running.append(process)
        return process, pids(tmp_path / "pids")

    yield start
    for process in running:
        process.stop()


def test_the_pid_is_the_servers_own_and_it_leads_its_group(started):
    process, (server, _) = started()
    assert process.pid == server == os.getpgid(server)
    assert process.exit_code is None
    assert started_here(server) is process


def test_it_is_known_who_listens_on_a_port(started, port):
    process, _ = started()
    assert comes_true(lambda: process.listens(port), 20)
    assert not process.listens(free_port("127.0.0.1"))
    assert not is_free("127.0.0.1", port)


def test_a_port_that_another_program_has_is_not_the_servers(started):
    other, _ = started("sleeps")
    with socket.create_server(("127.0.0.1", 0)) as ours:
        assert not other.listens(ours.getsockname()[1])


def test_stopping_ends_children_that_left_the_group_too(started, port):
    process, both = started()
    process.stop()
    assert not any(lives(pid) for pid in both)
    assert not lives(process.guardian.pid)
    assert is_free("127.0.0.1", port)
    assert started_here(process.pid) is None


def test_stopping_twice_is_harmless(started):
    process, _ = started()
    process.stop()
    process.stop()


def test_who_does_not_heed_the_signal_is_killed(tmp_path, port):
    program = python(
        IMPATIENT, tmp_path / "log", *command_of(port, tmp_path / "pids", "deaf"),
        stdin=-1, stdout=-1,
    )  # fmt: skip
    both = pids(tmp_path / "pids")
    program.stdin.close()
    assert all_gone([*both, program.pid])
    assert program.wait() == 128 + signal.SIGKILL
    program.stdout.close()


def test_when_the_server_dies_its_children_follow(started):
    process, both = started()
    os.kill(process.pid, signal.SIGKILL)
    assert all_gone(both)
    assert comes_true(lambda: process.exit_code == 128 + signal.SIGKILL, 20)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_when_the_guardian_is_killed_the_server_is_told_to_end(started):
    process, (server, child) = started()
    process.guardian.kill()
    assert all_gone([server])
    os.kill(child, signal.SIGKILL)  # this one was beyond anybody's reach


@pytest.mark.parametrize("what, number", [
    ("stays", signal.SIGKILL), ("stays", signal.SIGTERM), ("stays", signal.SIGINT), ("ends", None),
    ("raises", None),
])  # fmt: skip
def test_the_server_ends_with_the_program_that_started_it(tmp_path, port, what, number):
    program = _program(what, tmp_path, port)
    family = [*pids(tmp_path / "pids"), int(program.stdout.readline())]
    if number is not None:
        program.send_signal(number)
    assert all_gone([*family, program.pid])
    _close(program)


def test_a_fork_does_not_stop_it_and_does_not_keep_it(tmp_path, port):
    program = _program("forks", tmp_path, port)
    family = [*pids(tmp_path / "pids"), guardian_pid := int(program.stdout.readline())]
    assert comes_true(lambda: len(psutil.Process(program.pid).children()) == 2, 20)
    [fork] = [each for each in psutil.Process(program.pid).children() if each.pid != guardian_pid]
    assert all(lives(pid) for pid in family)
    program.kill()
    assert all_gone(family)
    assert fork.is_running()
    fork.kill()
    _close(program)


def test_a_command_that_is_not_there_is_an_error_at_once(tmp_path):
    with pytest.raises(RuntimeError, match="not be started: FileNotFoundError.*/no/such/vllm"):
        ServerProcess(["/no/such/vllm", "serve"], tmp_path / "log")


def test_a_process_is_told_from_a_later_one_of_the_same_pid():
    assert identity(os.getpid()) == psutil.Process(os.getpid()).create_time()
    ended = python("pass")
    ended.wait()
    assert identity(ended.pid) is None




def _program(what, tmp_path, port):
    command = command_of(port, tmp_path / "pids")
    return python(PROGRAM, what, tmp_path / "log", *command, stdout=-1, stderr=-1)


def _close(program):
    program.communicate()
