"""Making decoders: from a folder of safetensors, or shape-only with random weights."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from coursekit.device import detect_device
from coursekit.models.config import SHAPES, ModelConfig
from coursekit.models.decoder import Decoder
from coursekit.models.linear import Linear
from coursekit.models.store import resolve_model

MOST_PREPACKED_BYTES = 2**31  # a larger model's weights are not kept twice

# Matrices that the decoder holds as one, and their parts in a model's files.
STACKED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def load_model(
    name: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Decoder:
    """Load a decoder, ready to run.

    name: a Hugging Face folder, a hub id, or a shape such as "llama-2-7b" (random weights,
    for timing). Without it, the setting COURSEKIT_MODEL counts, then the default model.
    device: without it COURSEKIT_DEVICE counts, then CUDA if there is one, then the CPU.
    dtype: see `default_dtype`.
    Raises ModelUnavailable (a ValueError) if the model can't be had, ValueError if its
    architecture is not supported, MemoryError if its weights do not fit the device.
    """
    device = torch.device(device or detect_device().kind)
    dtype = dtype or default_dtype(device)
    shape = name or os.environ.get("COURSEKIT_MODEL", "")
    if shape in SHAPES:
        return build_model(SHAPES[shape], dtype, device)
    folder = resolve_model(name)
    config = ModelConfig.from_folder(folder)
    _check_memory(config, dtype, device)
    with torch.device("meta"):  # no memory yet: the weights themselves take the place
        model = Decoder(config)
    model.load_state_dict(_read_weights(folder, dtype, device), strict=False, assign=True)
    return _finish(model)


def build_model(
    config: ModelConfig,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    seed: int = 0,
) -> Decoder:
    """A decoder of this shape with random weights: right in time, nonsense in text."""
    device = torch.device(device)
    _check_memory(config, dtype, device)
    with torch.device("meta"):
        model = Decoder(config).to(dtype)
    model = model.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, 0.02, generator=generator)
    return _finish(model)


def load_tokenizer(name: str | None = None):
    """The `transformers` tokenizer of a model folder or hub id (default: as in load_model)."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_model(name))


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it natively, else float32, which is faster there."""
    if device.type == "cuda":
        return torch.bfloat16
    native = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _read_weights(folder: Path, dtype: torch.dtype, device: torch.device) -> dict:
    """All tensors of the folder's safetensors files under our names."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no *.safetensors file in {folder}; convert the model first")
    weights = {}
    for path in files:
        for name, tensor in load_file(path, device=str(device)).items():
            weights[name.removeprefix("model.")] = tensor.to(dtype)
    _stack(weights)
    return weights


def _stack(weights: dict) -> None:
    """Make one matrix of those in STACKED that share an input, in place."""
    for whole, parts in STACKED.items():
        for first in [name for name in weights if f".{parts[0]}." in name]:
            names = [first.replace(parts[0], part) for part in parts]
            if missing := [name for name in names if name not in weights]:
                raise ValueError(_missing(missing))
            matrices = [weights.pop(name) for name in names]
            weights[first.replace(parts[0], whole)] = torch.cat(matrices)


def _finish(model: Decoder) -> Decoder:
    """Tie what the config says is tied, and refuse a model with a weight still missing."""
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    missing = [name for name, weight in model.named_parameters() if weight.is_meta]
    if missing:
        raise ValueError(_missing(missing))
    if 2 * _num_bytes(model) < MOST_PREPACKED_BYTES:
        for module in model.modules():
            if isinstance(module, Linear):
                module.prepack()
    return model.eval().requires_grad_(False)


def _num_bytes(model: Decoder) -> int:
    return sum(weight.numel() * weight.itemsize for weight in model.parameters())


def _missing(names: list[str]) -> str:
    return (
        f"{len(names)} weights are missing in the model's files, first {names[0]}; "
        "is the download complete?"
    )


def _check_memory(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
    """Raise MemoryError before, not in the middle of, a load that can't fit."""
    needed = config.num_parameters * dtype.itemsize
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu":
        import psutil

        free = psutil.virtual_memory().available
    else:
        return
    if needed > free:
        raise MemoryError(
            f"{config.name} needs {needed / 2**30:.1f} GiB for its weights in {dtype}, only "
            f"{free / 2**30:.1f} GiB are free on {device}; choose a smaller model"
        )
