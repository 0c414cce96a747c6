"""Model sizes: read from config.json, counted right, refused when unsupported."""

import json

import pytest
import torch

from coursekit.models import SHAPES, ModelConfig, build_model

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
}  # fmt: skip


def folder_with(tmp_path, **changes):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return tmp_path


def test_missing_fields_take_the_defaults_of_the_format(tmp_path):
    config = ModelConfig.from_folder(folder_with(tmp_path))
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (4, 16, 10_000.0)
    assert config.rope_scaling is None and not config.tie_word_embeddings


def test_rope_is_read_in_the_old_and_the_new_spelling(tmp_path):
    scaled = {"rope_type": "llama3", "factor": 8.0}
    old = ModelConfig.from_folder(folder_with(tmp_path, rope_theta=5e5, rope_scaling=scaled))
    new = ModelConfig.from_folder(
        folder_with(tmp_path, rope_parameters={**scaled, "rope_theta": 5e5})
    )
    assert old.rope_theta == new.rope_theta == 5e5
    assert old.rope_scaling["factor"] == new.rope_scaling["factor"] == 8.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel.*COURSEKIT_MODEL"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'.*supported: default, llama3"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
    ],
)
def test_unsupported_models_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig.from_folder(folder_with(tmp_path, **changes))


def test_a_folder_without_config_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        ModelConfig.from_folder(tmp_path)


@pytest.mark.parametrize(
    "name, billions",
    [
        ("smollm2-135m", 0.1345),
        ("llama-2-7b", 6.738),
        ("llama-2-13b", 13.016),
        ("llama-2-70b", 68.977),
        ("llama-3.1-8b", 8.030),
        ("mistral-7b", 7.242),
        ("yi-34b", 34.389),
    ],
)
def test_registered_shapes_have_the_published_number_of_parameters(name, billions):
    assert SHAPES[name].num_parameters / 1e9 == pytest.approx(billions, rel=1e-3)


def test_counted_parameters_are_those_of_the_built_model(tiny_config):
    model = build_model(tiny_config)
    assert tiny_config.num_parameters == sum(p.numel() for p in model.parameters())


def test_kv_bytes_are_those_of_the_allocated_cache(tiny_model):
    cache = tiny_model.new_cache(10)
    allocated = cache.keys.nbytes + cache.values.nbytes
    assert allocated == 10 * tiny_model.config.kv_bytes_per_token(torch.float32.itemsize)
