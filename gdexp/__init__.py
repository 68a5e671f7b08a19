"""Gradient-descent experiments: YAML in, a PyTorch run, an MLflow record out.

Everything here is imported when it is first used: ``import gdexp`` costs nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gdexp.run import launch
    from gdexp.tracking.record import load
    from gdexp.tracking.table import runs

__version__ = "0.1.0"
__all__ = ["__version__", "launch", "load", "runs"]

_HOMES = {"launch": "gdexp.run", "load": "gdexp.tracking.record", "runs": "gdexp.tracking.table"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'gdexp' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
