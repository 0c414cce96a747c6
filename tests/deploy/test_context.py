"""A model's context length, and the folder from which vLLM reads a shape."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from coursekit.deploy.context import context_length, hub_config, readable_folder
from coursekit.models import SHAPES, ModelConfig, resolve_model


def test_the_courses_model_is_known_by_its_shape():
    folder = resolve_model(None)
    assert context_length() == context_length(str(folder)) == context_length(folder.name) == 8192


def test_a_model_that_is_set_counts_where_none_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 777}))
    monkeypatch.setenv("COURSEKIT_MODEL", str(tmp_path))
    assert context_length() == 777 and context_length("llama-2-7b") == 4096


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_shapes_folder_says_the_shape_and_is_gone_afterwards(name):
    with readable_folder(name) as folder:
        shape = ModelConfig.from_folder(folder)
        assert replace(shape, name=name) == SHAPES[name] and context_length(folder) == context_length(name)
    assert not Path(folder).exists()


def test_what_is_no_model_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(ValueError, match="neither a folder, nor a hub id .* nor one of the shapes .*llama-2-7b"):
        context_length("gpt")
    with pytest.raises(ValueError, match="no config.json in model folder"):
        context_length(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 4}))
    with pytest.raises(ValueError, match="names no max_position_embeddings: pass max_model_len"):
        context_length(str(tmp_path))


def test_a_hub_id_that_can_not_be_looked_up_asks_for_the_length(monkeypatch):
    import huggingface_hub

    def no_network(*_):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    with pytest.raises(ValueError, match=r"of 'some/model' could not be looked up \(OSError\): pass max_m"):
        context_length("some/model")


def test_the_written_config_keeps_the_rope_scaling():
    assert hub_config(SHAPES["llama-3.1-8b"])["rope_scaling"]["rope_type"] == "llama3"
