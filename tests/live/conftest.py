"""A tiny model whose tokens depend on all of their context."""

import pytest
import torch

from coursekit.models import build_model
from tests.live.tiny_folder import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """As the tiny model of other tests, but with large weights: with small ones a token hardly
    depends on what it attends to, and faults of attention would not show."""
    model = build_model(tiny_config, seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.mul_(12)
    return model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_model):
    """The tiny model as a folder."""
    return str(write_tiny_model(tmp_path_factory.mktemp("tiny") / "model", tiny_model))
