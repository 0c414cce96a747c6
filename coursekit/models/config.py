"""The numbers that describe a Llama-family decoder, and a registry of well-known shapes.

A shape is enough to time a model, since time does not depend on the values of the weights.
This module does not load weights; `load` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of one Llama-family decoder. All are counts, but for the two floats."""

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: dict | None = None
    tie_word_embeddings: bool = False

    @property
    def num_linear_parameters(self) -> int:
        """Weights of the decoder layers' matrices: what every token is multiplied with."""
        query_and_output = 2 * self.hidden_size * self.num_heads * self.head_dim
        key_and_value = 2 * self.hidden_size * self.num_kv_heads * self.head_dim
        mlp = 3 * self.hidden_size * self.intermediate_size
        return self.num_layers * (query_and_output + key_and_value + mlp)

    @property
    def num_parameters(self) -> int:
        """All weights, norms and embeddings included."""
        norms = (2 * self.num_layers + 1) * self.hidden_size
        tables = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.num_linear_parameters + norms + tables

    def kv_bytes_per_token(self, bytes_per_value: int = 2) -> int:
        """Bytes of KV cache that one token of context occupies, over all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value

    @classmethod
    def from_folder(cls, folder: str | Path) -> ModelConfig:
        """Read a Hugging Face `config.json`.

        Raises FileNotFoundError without that file, and ValueError for an architecture
        that this decoder does not implement.
        """
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"no config.json in model folder {folder}")
        raw = json.loads(path.read_text())
        _refuse_unsupported(raw, folder)
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        num_heads = raw["num_attention_heads"]
        return cls(
            name=Path(folder).name,
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            intermediate_size=raw["intermediate_size"],
            num_layers=raw["num_hidden_layers"],
            num_heads=num_heads,
            num_kv_heads=raw.get("num_key_value_heads") or num_heads,
            head_dim=raw.get("head_dim") or raw["hidden_size"] // num_heads,
            max_position_embeddings=raw["max_position_embeddings"],
            rms_norm_eps=raw["rms_norm_eps"],
            rope_theta=raw.get("rope_theta") or rope.get("rope_theta", 10_000.0),
            rope_scaling=rope if rope.get("rope_type", "default") != "default" else None,
            tie_word_embeddings=raw.get("tie_word_embeddings", False),
        )


def _refuse_unsupported(raw: dict, folder: str | Path) -> None:
    """Raise ValueError if the model needs something that our decoder does not do."""
    architecture = (raw.get("architectures") or [f"model_type {raw.get('model_type')}"])[0]
    if architecture != "LlamaForCausalLM":
        raise ValueError(
            f"model in {folder} is {architecture}; this course runs LlamaForCausalLM models: "
            "choose a Llama-family model, or unset COURSEKIT_MODEL for the default one"
        )
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type not in ("default", "llama3"):
        raise ValueError(f"rope type {rope_type!r} is not supported; supported: default, llama3")
    for flag in ("attention_bias", "mlp_bias"):
        if raw.get(flag):
            raise ValueError(f"{flag}=true is not supported; this decoder has no bias terms")
    if raw.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {raw['hidden_act']!r} is not supported; supported: silu")


_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

# Sizes as published in each model's config.json on the Hugging Face hub.
SHAPES: dict[str, ModelConfig] = {
    shape.name: shape
    for shape in (
        ModelConfig(
            "smollm2-135m", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, 100_000.0,
            tie_word_embeddings=True,
        ),
        ModelConfig("llama-2-7b", 32000, 4096, 11008, 32, 32, 32, 128, 4096),
        ModelConfig("llama-2-13b", 32000, 5120, 13824, 40, 40, 40, 128, 4096),
        ModelConfig("llama-2-70b", 32000, 8192, 28672, 80, 64, 8, 128, 4096),
        ModelConfig(
            "llama-3.1-8b", 128256, 4096, 14336, 32, 32, 8, 128, 131072, 1e-5, 500_000.0,
            rope_scaling=_LLAMA3_ROPE,
        ),
        ModelConfig("mistral-7b", 32000, 4096, 14336, 32, 32, 8, 128, 32768),
        ModelConfig("yi-34b", 64000, 7168, 20480, 60, 56, 8, 128, 200_000, 1e-5, 5_000_000.0),
    )
}
