"""How long a context a model has, and a folder that vLLM can read its shape from.

For a folder or a hub id its `config.json` says it; a name in `coursekit.models.SHAPES` is enough
too, as vLLM checks a configuration without any weights.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from coursekit.models import SHAPES, ModelConfig, resolve_model
from coursekit.models.store import DEFAULT_MODEL

DEFAULT_SHAPE = "smollm2-135m"


def context_length(model: str | None = None) -> int:
    """Most tokens of one request that the model was made for.

    model: folder, hub id (of which config.json alone is fetched), or a name of SHAPES; None for
    the course's model. Raises ValueError if that can't be found out.
    """
    if model is None and os.environ.get("COURSEKIT_MODEL") not in (None, "", DEFAULT_MODEL):
        model = str(resolve_model(None))
    if model in (None, DEFAULT_MODEL):
        model = DEFAULT_SHAPE
    if model in SHAPES:
        return SHAPES[model].max_position_embeddings
    path = _config_file(model)
    raw = json.loads(path.read_text())
    length = raw.get("max_position_embeddings") or raw.get("n_positions")
    if not isinstance(length, int):
        raise ValueError(
            f"the config.json of model {model!r} names no max_position_embeddings: pass max_model_len"
        )
    return length


@contextmanager
def readable_folder(model: str | None) -> Iterator[str]:
    """What to give vLLM as its model: the folder or hub id; for a shape a folder made for it.

    The made folder holds a config.json and no weights, and is gone afterwards.
    """
    if model not in SHAPES:
        is_path = model is None or model == DEFAULT_MODEL
        yield str(resolve_model(model)) if is_path else model
        return
    with TemporaryDirectory(prefix="coursekit-shape-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(hub_config(SHAPES[model])))
        yield folder


def hub_config(shape: ModelConfig) -> dict:
    """A shape as the `config.json` of the Hugging Face hub."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
        "vocab_size": shape.vocab_size, "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size, "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads, "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim, "max_position_embeddings": shape.max_position_embeddings,
        "rms_norm_eps": shape.rms_norm_eps, "rope_theta": shape.rope_theta,
        "tie_word_embeddings": shape.tie_word_embeddings,
    }  # fmt: skip
    if shape.rope_scaling:
        config["rope_scaling"] = shape.rope_scaling
    return config


def _config_file(model: str) -> Path:
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"no config.json in model folder {model}: pass a folder that has one")
        return folder / "config.json"
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ValueError(
            f"model {model!r} is neither a folder, nor a hub id (owner/name), nor one of the shapes "
            f"{', '.join(SHAPES)}"
        )
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, "config.json"))
    except Exception as error:  # no network, gated, misspelt, ...: many types, one meaning here
        raise ValueError(
            f"the context length of {model!r} could not be looked up ({type(error).__name__}): "
            "pass max_model_len, or a folder"
        ) from None
