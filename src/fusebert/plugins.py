"""A modality or a task is the module found by its name: nothing is registered.

`image` is `fusebert.modalities.image`, its light half `.processor`, its heavy half `.embedder`; a task has `.task` and
`.head`. An installed package adds its own through an entry point of group `fusebert.modalities` or `fusebert.tasks`
whose value is the folder's module path.
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
    """The module of one half of a plug-in; raises UsageError with the known names."""
    folder = names(kind).get(str(name))
    if folder is None:
        raise UsageError(f"{name!r} is not one of the {kind}: {', '.join(sorted(names(kind)))}")
    return importlib.import_module(f"{folder}.{half}")
