"""A tiny model whose tokens depend on all of their context, as in tests/live."""

import pytest
import torch

from coursekit.models import build_model


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    model = build_model(tiny_config, seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(12)
    return model
