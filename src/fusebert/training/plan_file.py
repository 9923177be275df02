"""What a run with a budget was planned to be, kept in its folder: resumed, it goes on with that plan."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusebert.config import MAY_CHANGE_ON_RESUME, RECIPE, Recipe, without_places
from fusebert.errors import ModelError, UsageError
from fusebert.recipe_yaml import read_settings
from fusebert.storage import CHECKPOINTS, read_json, write_json
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.run import PLAN


@dataclass(frozen=True, slots=True)
class Begun:
    """A run to go on with.

    Args:
        recipe: its own, with what may change on resume taken from the new settings.
        plan: of its budget; None without one, or where no step is saved yet: it is then planned for what the machine
            can do now.
    """

    recipe: Recipe
    plan: dict[str, Any] | None


def find_begun(folder: Path, settings: Mapping[str, Any], budget: float | None) -> Begun | None:
    """The run that has begun in a folder, if any.

    Args:
        settings, budget: those that it is resumed with.

    Raises:
        UsageError: it was begun with another budget, or, beside a budget, with other settings.
        ModelError: its plan is damaged.
    """
    if not (folder / RECIPE).is_file():
        return None
    kept: Any = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
    if kept is None:
        if budget is not None:
            raise UsageError(f"{folder} was begun without a budget; resume it without one")
        return Begun(pretraining_recipe(settings), None)
    if not (isinstance(kept, dict) and {"plan", "budget", "settings"} <= set(kept)):
        raise ModelError(f"{folder / PLAN} is damaged; start again in another folder")
    if kept["budget"] != budget:
        seconds = f"{kept['budget']:g}"
        raise UsageError(f"{folder} was begun with a budget of {seconds} s; resume it with --budget {seconds}s")
    if _fixed(kept["settings"]) != _fixed(settings):
        raise UsageError(f"{folder} was begun with other settings (see {folder / PLAN}); resume it with the same ones")
    changed = {key: settings[key] for key in MAY_CHANGE_ON_RESUME if key in settings}
    is_saved = any((folder / CHECKPOINTS).glob("step-*"))
    named = without_places(settings)
    placed = {key: value for key, value in settings.items() if named[key] != value}
    recipe = pretraining_recipe(read_settings(folder / RECIPE) | placed | changed)
    return Begun(recipe, kept["plan"] if is_saved else None)


def keep_plan(folder: Path, plan: Mapping[str, Any], budget: float, settings: Mapping[str, Any]) -> None:
    """Write what `find_begun` reads."""
    write_json(folder / PLAN, {"plan": plan, "budget": budget, "settings": _plain(settings)})


def _fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a run has to be resumed with."""
    return {key: value for key, value in _plain(settings).items() if key not in MAY_CHANGE_ON_RESUME}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As they come back from a JSON file, without the places of files."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=str))
    return without_places(plain)
