"""The command that explains what a recipe may hold: `settings`."""

from __future__ import annotations

import argparse
from typing import Any

from fusebert.cli.common import Command, nothing, print_text
from fusebert.errors import UsageError


def add_commands(command: Command) -> None:
    """Add it to the command line."""
    settings = command("settings", _settings, "List every setting of a recipe: default, range and meaning.")
    settings.add_argument("about", metavar="ABOUT", nargs="?", help="training, audio, classification, task.left, ...")


def _settings(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.settings import all_settings, shown

    about, found = options.about, all_settings()
    asked = {
        name: [one for one in settings if about in (None, name, one.key) or one.key.startswith(f"{about}.")]
        for name, settings in found.items()
    }
    chosen = {name: settings for name, settings in asked.items() if settings or about in (None, name)}
    if not chosen:
        raise UsageError(f"{about!r} is neither a setting nor one of the sections: {', '.join(found)}")
    if not options.json:
        for name, settings in chosen.items():
            print_text(f"{name}:" if settings else f"{name}: nothing to set")
            for one in settings:
                default = f", default {shown(one.default)}" if shown(one.default) else ""
                print_text(f"  {one.key} ({one.allowed}{default}): {one.meaning}")
    return {name: [one.to_json() for one in settings] for name, settings in chosen.items()}
