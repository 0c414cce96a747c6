"""Why a server did not come up: the last lines of its log, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

from coursekit.deploy.remedies import REMEDIES

NUM_LINES = 15
ADDRESS_IN_USE = r"[Aa]ddress already in use"
# A pattern in vLLM's log (0.32) -> the remedy.
SERVER_REMEDIES = (
    (ADDRESS_IN_USE, "choose another port, or leave it out for a free one"),
    (
        r"larger than the available KV cache memory|No available memory for the cache blocks",
        "lower max_model_len, or give the KV cache more room: gpu_memory_utilization on a GPU, "
        "VLLM_CPU_KVCACHE_SPACE (GiB) in the environment on a CPU",
    ),
    (
        r"Free memory on device|CUDA out of memory",
        "another program holds the GPU's memory: stop it (`nvidia-smi` names it), or lower "
        "gpu_memory_utilization",
    ),
    (
        r"Failed to infer device type|no NVIDIA driver|No CUDA GPUs are available",
        "this vLLM finds no GPU: `make doctor` says which package fits this machine",
    ),
    (r"No space left on device", "free some disk space; in a container, /dev/shm as well"),
    (r"unrecognized arguments: (.+)", "leave {1} out: this version of vLLM has no such option"),
    (r"No module named '(\w+)'", "install {1}: `make doctor` says what is missing"),
)  # fmt: skip


class ServerFailed(RuntimeError):
    """A server did not come up, or went; the message holds its log's last lines and the remedy."""


def failed(what: str, log: Path, remedy: str = "") -> ServerFailed:
    """The error to raise. what: what happened, in a few words; remedy: where the log names none."""
    said = last_lines(log, NUM_LINES)
    remedy = remedy_in(whole(log)) or remedy or f"see vLLM's own words in {log}"
    quoted = "\n".join(f"    {line}" for line in said.splitlines()) or "    (nothing)"
    return ServerFailed(f"{what}. Its last lines:\n{quoted}\nRemedy: {remedy}.")


def remedy_in(text: str) -> str:
    """The way out of the first known error in a log; "" if none is known."""
    for pattern, remedy in (*REMEDIES, *SERVER_REMEDIES):
        if found := re.search(pattern, text):
            return remedy.format(found.group(0), *found.groups())
    return ""


def is_address_taken(log: Path) -> bool:
    """Whether it failed because somebody else has its port."""
    return re.search(ADDRESS_IN_USE, whole(log)) is not None


def whole(log: Path) -> str:
    """The log's text; "" if there is none."""
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""


def last_lines(log: Path, num_lines: int) -> str:
    """The log's end; it is read from there, as it may be long."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 400 * num_lines))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-num_lines:])


def stage(log: Path) -> str:
    """What it said last, without process, level and time: "Loading weights took 0.4 seconds"."""
    line = (last_lines(log, 5).splitlines() or [""])[-1]
    line = re.sub(r"^\(\S+ pid=\d+\)\s*", "", line)
    line = re.sub(r"^[A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\]\s*", "", line)
    return line.strip()[:70]
