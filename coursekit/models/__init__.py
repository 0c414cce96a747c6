"""The readable decoder, its weights and where they come from."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "Chunk": ".decoder",
    "Decoder": ".decoder",
    "ModelConfig": ".config",
    "SHAPES": ".config",
    "build_model": ".load",
    "generate_greedy": ".generate",
    "is_prepared": ".store",
    "load_model": ".load",
    "load_tokenizer": ".load",
    "prepare_default_model": ".store",
    "resolve_model": ".store",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
