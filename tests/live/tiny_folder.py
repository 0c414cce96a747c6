"""A model folder of the tiny shape: an engine in a child process starts with it in seconds."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file


def write_tiny_model(folder: Path, model) -> Path:
    """Save `model` as a Hugging Face folder, its matrices stacked as ours are."""
    config = model.config
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(
        json.dumps({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size, "rms_norm_eps": config.rms_norm_eps,
            "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim,
            "max_position_embeddings": config.max_position_embeddings,
        })
    )  # fmt: skip
    save_file({name: value.clone() for name, value in model.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    return folder
