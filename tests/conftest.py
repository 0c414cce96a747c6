"""What all tests share. The tests look at the course's defaults, so the user's own settings are left out."""

import os
from pathlib import Path

import pytest

# Fixtures: one real server for all tests that ask for it, and where it is known.
from tests.deploy.real_server import server, servers_folder  # noqa: F401

for setting in ("COURSEKIT_DEVICE", "COURSEKIT_FLAVOUR", "COURSEKIT_MODEL", "COURSEKIT_TORCH_INDEX"):
    os.environ.pop(setting, None)


@pytest.fixture(scope="session")
def course_root() -> Path:
    """The course folder: the one that holds pyproject.toml."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def put_on_path(tmp_path, monkeypatch):
    """Return a function that puts a shell script of a given name first on PATH."""
    folder = tmp_path / "first-on-path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def put(name: str, body: str) -> Path:
        script = folder / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        return script

    return put


@pytest.fixture(scope="session")
def smollm2():
    """The course's default model in float32 on the CPU."""
    import torch

    from coursekit.models import load_model

    return load_model(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_config():
    """The smallest shape with everything in it: grouped heads, several layers, untied tables."""
    from coursekit.models import ModelConfig

    return ModelConfig(
        name="tiny", vocab_size=97, hidden_size=32, intermediate_size=48, num_layers=2,
        num_heads=4, num_kv_heads=2, head_dim=8, max_position_embeddings=512,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """Random weights in the tiny shape: thousands of forwards per second."""
    from coursekit.models import build_model

    return build_model(tiny_config, seed=1)
