"""Which device the course computes on, and how to name it under a figure.

It only looks: it allocates nothing and sets nothing. torch is imported when `detect_device` runs, not before.
The setting `COURSEKIT_DEVICE` (cpu, cuda or mps) overrides the choice, e.g. to compare CPU and GPU on one machine.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

KINDS = ("cpu", "cuda", "mps")


@dataclass(frozen=True, slots=True)
class Device:
    """A compute device: `memory_bytes` is the GPU's own memory for cuda, else the machine's RAM."""

    kind: str
    name: str
    memory_bytes: int
    num_cores: int

    def label(self) -> str:
        """Name for a figure's caption: "AMD EPYC, 2 cores" or "NVIDIA H200"; write `live (…)` around it."""
        if self.kind == "cuda":
            return self.name
        cores = f"{self.num_cores} core{'s' if self.num_cores != 1 else ''}"
        return f"{self.name}, {cores}" if self.kind == "cpu" else f"{self.name}, {self.kind}"


def detect_device(kind: str | None = None) -> Device:
    """Describe the device of `kind`; without it that of `COURSEKIT_DEVICE`, else cuda if torch sees one, else cpu.

    mps (Apple's GPU) is used only when asked for: the course is measured on cpu and cuda. Raises ValueError on an
    unknown kind and on one that torch can't use here.
    """
    import torch

    kind = kind or os.environ.get("COURSEKIT_DEVICE", "").strip() or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in KINDS:
        raise ValueError(f"device must be one of {', '.join(KINDS)}, got {kind!r}; is COURSEKIT_DEVICE set wrongly?")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device 'cuda' was asked for, but torch sees no GPU; use 'cpu' or run: coursekit doctor")
        gpu = torch.cuda.get_device_properties(0)
        return Device("cuda", gpu.name, gpu.total_memory, num_cores())
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' was asked for, but torch sees no Apple GPU here; use 'cpu'")
    return Device(kind, cpu_name(), ram_bytes(), num_cores())


def num_cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ram_bytes(cgroup: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """The machine's RAM, or the container's limit where that is lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(cgroup.read_text()))
    except (OSError, ValueError):  # no cgroup, or "max": no limit
        return total


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's marketing name without its trimmings, e.g. "AMD EPYC 7B13"; its architecture at worst."""
    name = ""
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(errors="replace"), re.MULTILINE)
        name = found.group(1) if found else ""
    elif platform.system() == "Darwin":
        asked = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        name = asked.stdout
    name = re.sub(r"\((R|TM|tm|r)\)|\bCPU\b|\bProcessor\b|\d+-Core\b|@.*$", " ", name)
    return " ".join(name.split()) or platform.processor() or platform.machine()
