"""coursekit.doctor: sound on a sound machine, and for each planted fault the right word and the right remedy."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from coursekit import doctor
from coursekit.doctor import FAIL, OK, WARN, Finding
from coursekit.models import store

HEAVY = ("torch", "vllm", "matplotlib", "ipywidgets", "transformers")


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def plant_package(monkeypatch, folder: Path, name: str, version: str) -> None:
    """Make `name` look installed to importlib.metadata, as pip's record of it would."""
    record = folder / f"{name}-{version}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))


# --- A sound machine --------------------------------------------------------------------------------------------


def test_on_this_machine_the_course_can_run(capsys):
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert FAIL not in printed.replace("marked FAIL", "")
    assert [line.split()[1] for line in printed.splitlines() if line[:4] in ("ok  ", "warn")] == list(doctor.CHECKS)


def test_brief_is_one_short_line_without_the_home_folder(capsys):
    doctor.brief()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and printed.endswith("ready\n") and len(printed) < 160
    assert all(word in printed for word in ("coursekit", "Python", "torch", "device", "SmolLM2-135M-Instruct"))
    assert str(Path.home()) not in printed


def test_brief_costs_little_beyond_importing_torch():
    ended = run_python(
        "import torch, time; start = time.perf_counter(); from coursekit import doctor; doctor.brief(); "
        "print(time.perf_counter() - start)"
    )
    assert float(ended.stdout.splitlines()[-1]) < 3, ended.stderr


@pytest.mark.parametrize("module", ["coursekit", "coursekit.doctor", "coursekit.cli", "coursekit.device"])
def test_importing_loads_nothing_heavy(module):
    ended = run_python(f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])")
    assert ended.stdout == "[]\n", ended.stderr


# --- Planted faults ---------------------------------------------------------------------------------------------


def test_a_check_that_raises_is_a_failing_line_and_no_traceback():
    def broken() -> Finding:
        raise KeyError("surprise")

    lines, healthy = doctor.report({"thing": broken})
    assert not healthy
    assert lines[0].startswith("FAIL") and "KeyError: 'surprise'" in lines[0]
    assert "mend it:" in lines[1]


def test_warnings_alone_leave_the_course_able_to_run():
    lines, healthy = doctor.report({"thing": lambda: Finding(WARN, "optional, missing", "install it")})
    assert healthy and lines == ["warn  thing         optional, missing", f"{'':20}mend it: install it"]


def test_an_unfit_python_fails(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    assert doctor.check_python().status == FAIL


def test_a_torch_that_cannot_be_imported_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    finding = doctor.check_torch()
    assert finding.status == FAIL and "import fails" in finding.detail and finding.remedy


def test_a_torch_of_another_series_warns(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "2.12.1")
    assert doctor.check_torch().status == WARN


def test_the_cuda_build_of_torchvision_beside_a_cpu_torch_fails_with_the_uninstall(monkeypatch, tmp_path):
    plant_package(monkeypatch, tmp_path / "a", "torch", "2.13.0+cpu")
    plant_package(monkeypatch, tmp_path / "b", "torchvision", "0.28.0")
    for check in (doctor.check_transformers, doctor.check_companions):
        finding = check()
        assert finding.status == FAIL and "torchvision" in finding.detail
        assert finding.remedy.endswith(" -m pip uninstall -y torchvision")


def test_torchvision_beside_a_cuda_torch_is_right(monkeypatch, tmp_path):
    plant_package(monkeypatch, tmp_path / "a", "torch", "2.13.0")
    plant_package(monkeypatch, tmp_path / "b", "torchvision", "0.28.0")
    assert doctor.stray_companions() == []


def test_a_gpu_that_torch_cannot_use_warns(monkeypatch, put_on_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    put_on_path("nvidia-smi", "echo 470.82")
    finding = doctor.check_device()
    assert finding.status == WARN and "driver 470.82" in finding.detail


def test_a_device_that_is_set_wrongly_fails(monkeypatch):
    monkeypatch.setenv("COURSEKIT_DEVICE", "tpu")
    finding = doctor.check_device()
    assert finding.status == FAIL and finding.remedy == "unset COURSEKIT_DEVICE"


def test_no_vllm_where_there_is_none_is_optional(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    monkeypatch.setattr(doctor.platform, "system", lambda: "Darwin")
    finding = doctor.check_vllm()
    assert finding.status == WARN and "not available on this platform" in finding.detail


def test_no_vllm_where_it_belongs_warns_with_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    monkeypatch.setattr(doctor.platform, "system", lambda: "Linux")
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    finding = doctor.check_vllm()
    assert finding.status == WARN and finding.remedy


def test_two_vllms_on_top_of_each_other_warn(monkeypatch):
    monkeypatch.setattr(doctor, "installed_version", lambda package: "0.32.0")
    assert "overwrite each other" in doctor.check_vllm().detail


def test_an_unprepared_model_fails_the_course(monkeypatch, capsys):
    monkeypatch.setattr(store, "is_prepared", lambda: None)
    monkeypatch.setattr(doctor, "CHECKS", {"model": doctor.check_model})
    assert doctor.main() == 1
    assert "-m coursekit prepare" in capsys.readouterr().out


def test_brief_prints_what_fails_and_raises_one_clear_message(monkeypatch, capsys):
    monkeypatch.setattr(store, "is_prepared", lambda: None)
    with pytest.raises(RuntimeError, match=r"The course can't run yet \(model\)"):
        doctor.brief()
    printed = capsys.readouterr().out
    assert printed.startswith("FAIL  model") and "coursekit prepare" in printed and "ready" not in printed


def test_a_kernel_of_another_environment_fails_with_the_command(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho /another/environment\n")
    python.chmod(0o755)
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    finding = doctor.check_kernel()
    assert finding.status == FAIL and "another Python" in finding.detail
    assert finding.remedy.endswith("-m ipykernel install --sys-prefix --name python3")


def test_a_missing_labextension_fails_with_the_command(monkeypatch):
    import jupyter_core.paths

    monkeypatch.setattr(jupyter_core.paths, "jupyter_path", lambda name: [])
    finding = doctor.check_widgets()
    assert finding.status == FAIL and "jupyterlab-manager" in finding.detail
    assert finding.remedy.endswith("jupyterlab-widgets")


def test_a_full_disk_warns(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**20}))
    assert doctor.check_disk().status == WARN


def test_no_browser_is_optional(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    finding = doctor.check_browser()
    assert finding.status == WARN and "optional" in finding.detail


def test_the_home_folder_is_not_printed():
    lines = doctor.finding_lines("model", Finding(OK, f"{Path.home()}/models/x"))
    assert lines == ["ok    model         ~/models/x"]
