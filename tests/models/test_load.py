"""Loading: by folder, by shape, by setting; what can't work is refused before it starts."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from coursekit.models import SHAPES, ModelConfig, load_model, load_tokenizer, resolve_model
from coursekit.models.load import default_dtype


def test_the_default_model_speaks():
    from coursekit.chunking import ChunkedPrefillProcessor
    from coursekit.models import generate_greedy

    model, tokenizer = load_model(device="cpu"), load_tokenizer()
    prompt = tokenizer("The capital of France is").input_ids
    job = ChunkedPrefillProcessor(model, chunk_size=2).process(prompt)
    tokens = generate_greedy(model, job.cache, job.logits, 2)
    assert tokenizer.decode(tokens).startswith(" Paris")


def test_a_shape_only_model_needs_no_files(monkeypatch):
    monkeypatch.setattr("coursekit.models.load.resolve_model", None)  # would fail if asked
    model = load_model("smollm2-135m", device="cpu")
    assert model.config is SHAPES["smollm2-135m"]
    assert model.lm_head.weight is model.embed_tokens.weight


def test_the_setting_chooses_the_model(monkeypatch):
    monkeypatch.setenv("COURSEKIT_MODEL", "smollm2-135m")
    assert load_model(device="cpu").config is SHAPES["smollm2-135m"]


def test_a_named_model_goes_before_the_setting(monkeypatch):
    monkeypatch.setenv("COURSEKIT_MODEL", "smollm2-135m")
    assert load_model("SmolLM2-135M-Instruct", device="cpu").config.name == "SmolLM2-135M-Instruct"


def test_a_missing_weight_is_named(tmp_path):
    folder = resolve_model()
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"1 weights are missing.*layers\.3\.mlp\.up_proj"):
        load_model(str(tmp_path), device="cpu")


def test_a_folder_without_weights_says_so(tmp_path):
    (tmp_path / "config.json").write_bytes((resolve_model() / "config.json").read_bytes())
    with pytest.raises(ValueError, match="safetensors"):
        load_model(str(tmp_path), device="cpu")


def test_a_model_larger_than_memory_is_refused_before_it_is_built():
    with pytest.raises(MemoryError, match="GiB are free on cpu; choose a smaller model"):
        load_model("llama-2-70b", device="cpu", dtype=torch.float64)


def test_the_cpu_dtype_is_one_that_it_multiplies_natively():
    native = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert default_dtype(torch.device("cpu")) == (torch.bfloat16 if native else torch.float32)
    assert default_dtype(torch.device("cuda")) == torch.bfloat16


def test_weights_in_several_files_are_read_as_one(
    tmp_path, monkeypatch, tiny_config, tiny_model
):
    state = {f"model.{k}": v.clone() for k, v in tiny_model.state_dict().items()}
    state["lm_head.weight"] = state.pop("model.lm_head.weight")
    names = sorted(state)
    save_file({n: state[n] for n in names[:5]}, tmp_path / "model-1-of-2.safetensors")
    save_file({n: state[n] for n in names[5:]}, tmp_path / "model-2-of-2.safetensors")
    monkeypatch.setattr(ModelConfig, "from_folder", lambda folder: tiny_config)
    loaded = load_model(str(tmp_path), device="cpu", dtype=torch.float32)
    assert all(torch.equal(v, tiny_model.state_dict()[k]) for k, v in loaded.state_dict().items())
