"""The `coursekit` command: its subcommands, its exit codes and its one-line errors."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from coursekit import cli, doctor
from coursekit.models import store


def test_doctor_hands_on_its_exit_code(monkeypatch):
    monkeypatch.setattr(doctor, "main", lambda: 1)
    assert cli.main(["doctor"]) == 1


def test_prepare_names_the_model(monkeypatch, capsys):
    monkeypatch.setattr(store, "prepare_default_model", lambda: Path("/somewhere/Some-Model"))
    assert cli.main(["prepare"]) == 0
    assert capsys.readouterr().out == "Model: Some-Model is ready.\n"


@pytest.mark.parametrize("error", [ValueError, RuntimeError, store.ModelUnavailable])
def test_an_expected_error_is_one_line_and_exit_code_1(monkeypatch, capsys, error):
    def fail():
        raise error("chunk_size must be >= 1, got 0")

    monkeypatch.setattr(store, "prepare_default_model", fail)
    assert cli.main(["prepare"]) == 1
    assert capsys.readouterr().err == "coursekit: chunk_size must be >= 1, got 0\n"


@pytest.mark.parametrize("arguments", [[], ["serve-tea"], ["doctor", "--unknown"]])
def test_a_wrong_command_line_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage: coursekit" in capsys.readouterr().err


def test_a_later_part_adds_a_subcommand_with_one_function(monkeypatch, capsys):
    def double_command(parser):
        """Print twice a number."""
        parser.add_argument("number", type=int)

        def run(options):
            print(2 * options.number)
            return 0

        return run

    monkeypatch.setitem(cli.COMMANDS, "double", double_command)
    assert cli.main(["double", "21"]) == 0
    assert capsys.readouterr().out == "42\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_subcommand_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert cli.COMMANDS[name].__doc__.split()[0] in capsys.readouterr().out


def test_as_a_module_it_is_the_same_command():
    ended = subprocess.run([sys.executable, "-m", "coursekit", "--version"], capture_output=True, text=True)
    assert re.fullmatch(r"coursekit \d+\.\d+\.\d+\n", ended.stdout)


# --- lab --------------------------------------------------------------------------------------------------------


@pytest.fixture
def notebooks(tmp_path):
    for name in ("02_later.ipynb", "01_first.ipynb"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_lab_opens_the_first_notebook_of_the_folder(notebooks):
    arguments = cli.lab_arguments(notebooks, [], is_root=False)
    assert f"--ServerApp.root_dir={notebooks}" in arguments
    assert "--LabApp.default_url=/lab/tree/01_first.ipynb" in arguments


def test_root_is_allowed_only_for_root(notebooks):
    assert "--allow-root" in cli.lab_arguments(notebooks, [], is_root=True)
    assert "--allow-root" not in cli.lab_arguments(notebooks, [], is_root=False)


def test_further_options_go_to_jupyterlab(notebooks):
    assert cli.lab_arguments(notebooks, ["--no-browser"], is_root=False)[-1] == "--no-browser"


def test_without_notebooks_lab_says_how_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cli.coursekit, "__file__", str(tmp_path / "coursekit" / "__init__.py"))
    assert cli.main(["lab"]) == 1
    assert "pip install -e ." in capsys.readouterr().err


@pytest.fixture
def running_lab(course_root):
    """The address that a real `coursekit lab --no-browser` prints; the server is stopped afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "coursekit", "lab", "--no-browser", f"--port={port}"]
    server = subprocess.Popen(
        command, cwd=course_root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL
    )
    try:
        yield next(found[0] for line in server.stdout if (found := re.search(r"http://127\S+", line)))
    finally:
        server.terminate()
        server.wait(30)


def answer(address: str, path: str) -> dict:
    """What the server at `address` (with token) answers to `path`, waiting up to 30 s for it to come up."""
    base, token = re.fullmatch(r"(http://[^/]+)/.*\?token=(\w+)", address).groups()
    for _ in range(60):
        try:
            with urllib.request.urlopen(f"{base}{path}?token={token}", timeout=10) as response:
                return json.load(response)
        except urllib.error.HTTPError:
            raise
        except (ConnectionError, urllib.error.URLError):  # not up yet; the address is printed before
            time.sleep(0.5)
    raise AssertionError(f"no answer at {base}")


def test_the_real_lab_serves_the_notebooks_and_asks_for_no_news(running_lab, course_root):
    first = sorted((course_root / "notebooks").glob("01_*.ipynb"))[0].name
    assert f"/lab/tree/{first}?token=" in running_lab
    assert first in [entry["name"] for entry in answer(running_lab, "/api/contents")["content"]]
    plugin = answer(running_lab, "/lab/api/settings/@jupyterlab/apputils-extension:notification")
    assert plugin["schema"]["properties"]["fetchNews"]["default"] == "false"
    assert plugin["schema"]["properties"]["checkForUpdates"]["default"] is False
