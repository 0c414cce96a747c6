"""What a batch costs: the teaching formula, and the arithmetic beneath every roofline."""

from coursekit.lazy import lazy_exports

_HOME_OF = {
    "FormulaCost": ".formula",
    "Work": ".arithmetic",
    "chunk_work": ".arithmetic",
}

__all__ = sorted(_HOME_OF)
__getattr__, __dir__ = lazy_exports(__name__, _HOME_OF)
