"""coursekit.device: what it sees, and what it calls it."""

import os

import pytest
import torch

from coursekit.device import Device, cpu_name, detect_device, ram_bytes


def test_without_a_gpu_the_device_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = detect_device()
    assert device.kind == "cpu"
    assert device.num_cores >= 1 and device.memory_bytes > 2**28 and device.name


def test_the_setting_chooses_the_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("COURSEKIT_DEVICE", "cpu")
    assert detect_device().kind == "cpu"


def test_an_unknown_device_is_named_with_the_choices():
    with pytest.raises(ValueError, match="one of cpu, cuda, mps, got 'tpu'"):
        detect_device("tpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no GPU"):
        detect_device("cuda")


@pytest.mark.parametrize(
    "device, label",
    [
        (Device("cpu", "AMD EPYC", 2**34, 2), "AMD EPYC, 2 cores"),
        (Device("cpu", "AMD EPYC", 2**34, 1), "AMD EPYC, 1 core"),
        (Device("cuda", "NVIDIA H200", 2**37, 16), "NVIDIA H200"),
        (Device("mps", "Apple M4", 2**34, 10), "Apple M4, mps"),
    ],
)
def test_the_label_of_a_figure(device, label):
    assert device.label() == label


@pytest.mark.parametrize(
    "model_name, name",
    [
        ("AMD EPYC", "AMD EPYC"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon"),
        ("13th Gen Intel(R) Core(TM) i7-1365U", "13th Gen Intel Core i7-1365U"),
    ],
)
def test_the_processors_name_without_its_trimmings(tmp_path, model_name, name):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: {model_name}\nstepping\t: 1\n")
    assert cpu_name(cpuinfo) == name


def test_a_processor_without_a_name_is_called_by_its_architecture(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert cpu_name(tmp_path / "cpuinfo")


def test_a_containers_memory_limit_counts(tmp_path):
    limit = tmp_path / "memory.max"
    limit.write_text("1073741824\n")
    assert ram_bytes(limit) == 2**30
    limit.write_text("max\n")
    assert ram_bytes(limit) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
