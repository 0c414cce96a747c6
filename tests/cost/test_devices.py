"""The registry of devices, held to facts that do not come from it."""

import dataclasses

import pytest

from coursekit.cost import DEVICES, Hardware, measured_cpu
from coursekit.cost.devices import find_hardware


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_plausible_ceilings_and_a_source(name):
    device = DEVICES[name]
    assert device.name.startswith("NVIDIA ") and device.source
    assert 50e12 <= device.flop_per_s <= 1000e12  # nothing up to Hopper does more when dense
    assert 300e9 <= device.bytes_per_s <= 5e12
    assert 16 * 2**30 <= device.memory_bytes <= 141 * 2**30
    assert 100 < device.ridge < 450


def test_a_tile_is_under_the_ridge_so_that_it_costs_decodes_nothing():
    assert all(device.tile < device.ridge for device in DEVICES.values())


def test_the_course_s_devices_are_there():
    asked = {"t4", "l4", "a10", "a100", "h100", "h200", "rtx4090", "a40", "a6000"}
    assert asked <= set(DEVICES)


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="hardware must be one of .*a100.*got 'a101'"):
        find_hardware("a101")


@pytest.mark.parametrize("field", ["flop_per_s", "bytes_per_s", "memory_bytes", "tile"])
def test_impossible_ceilings_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} of NVIDIA T4 must be > 0, got 0"):
        dataclasses.replace(DEVICES["t4"], **{field: 0})


def test_this_machine_s_cpu_is_measured(monkeypatch):
    from coursekit.analyzers import ceilings

    found = ceilings.Ceilings(1e11, 1e10, "live (a CPU, 2 cores)")
    monkeypatch.setattr(ceilings, "measure_ceilings", lambda *args: found)
    cpu = measured_cpu()
    assert isinstance(cpu, Hardware) and cpu.ridge == 10
    assert cpu.source == "measured, live (a CPU, 2 cores)" and cpu.tile == 1
