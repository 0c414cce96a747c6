"""Lazy exports for a package's `__init__`: a name loads its module on first use.

It exists so that `import coursekit.models` costs nothing until something that needs torch
is asked for. It is not a plug-in mechanism.
"""

from importlib import import_module


def lazy_exports(package: str, home_of: dict[str, str]):
    """Return `__getattr__` and `__dir__` for the package named `package`.

    `home_of` maps each public name to the module (relative to the package) that holds it.
    The returned `__getattr__` raises AttributeError for any other name.
    """

    def __getattr__(name: str):
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home_of[name], package), name)

    def __dir__():
        return sorted(home_of)

    return __getattr__, __dir__
