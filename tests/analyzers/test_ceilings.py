"""Ceilings bound what the model reaches on the same device."""

import pytest
import torch

from coursekit.analyzers import LiveTorchSource, measure_ceilings
from coursekit.cost import chunk_work


def test_the_model_stays_under_the_measured_ceilings(smollm2):
    ceilings = measure_ceilings("cpu", torch.float32, seconds=0.3)
    source = LiveTorchSource(smollm2)
    prefill = chunk_work(smollm2.config, 512, 0, 4)
    decode = chunk_work(smollm2.config, 1, 64, 4)
    # wide: the machine may be shared, and a ceiling is measured at another moment
    assert prefill.flop / source.prefill_s(512) < 2 * ceilings.flop_per_s
    assert decode.bytes / source.decode_s(64) < 3 * ceilings.bytes_per_s
    assert decode.intensity < ceilings.ridge < prefill.intensity
    assert ceilings.label.startswith("live (")


def test_no_time_to_measure_is_refused():
    with pytest.raises(ValueError, match="seconds must be > 0, got 0"):
        measure_ceilings(seconds=0)
