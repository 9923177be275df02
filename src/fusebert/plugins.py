"""A modality or a task is the module found by its name: nothing is registered.

`image` is `fusebert.modalities.image`, its light half `.processor`, its heavy half `.embedder`; a task has `.task` and
`.head`. An installed package adds its own through an entry point of group `fusebert.modalities` or `fusebert.tasks`,
its name that of the plug-in, its value the folder's module path. The name of a modality begins its settings, so it is
one word, and not data, model, training or task. fusebert's own names stay its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal

from fusebert.errors import UsageError

Kind = Literal["modalities", "tasks"]
Half = Literal["processor", "embedder", "task", "head"]


@cache
def names(kind: Kind) -> dict[str, str]:
    """Every installed plug-in of a kind: its name -> the module path of its folder."""
    package = importlib.import_module(f"fusebert.{kind}")
    own = {
        found.name: f"{package.__name__}.{found.name}"
        for found in pkgutil.iter_modules(package.__path__)
        if found.ispkg
    }
    others = {entry.name: entry.value for entry in entry_points(group=f"fusebert.{kind}")}
    return others | own


def load(kind: Kind, name: str, half: Half) -> Any:
    """The module of one half of a plug-in. Raises UsageError where there is none, or where it cannot be imported."""
    folder = names(kind).get(str(name))
    if folder is None:
        raise UsageError(f"{name!r} is not one of the {kind}: {', '.join(sorted(names(kind)))}")
    try:
        return importlib.import_module(f"{folder}.{half}")
    except ImportError as error:
        if folder.startswith("fusebert."):
            raise
        raise UsageError(  # an installed package may want another fusebert
            f"{name!r} of the {kind} cannot be used: {folder}.{half} cannot be imported ({error}); "
            "mend or uninstall its package"
        ) from error
