"""fusebert: any subset of modalities, one trunk, from raw file to answer.

`import fusebert` is light; torch is imported when the first function is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusebert.errors import FusebertError
    from fusebert.evaluation.trained_model import load
    from fusebert.training.run import train

__version__ = "0.1.0"

__all__ = ["FusebertError", "load", "train"]
_HOMES = {
    "train": "fusebert.training.run",
    "load": "fusebert.evaluation.trained_model",
    "FusebertError": "fusebert.errors",
}


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fusebert' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
