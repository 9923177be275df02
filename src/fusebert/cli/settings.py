"""The command that explains what a recipe may hold: `settings`."""

from __future__ import annotations

import argparse
from typing import Any

from fusebert.cli.common import Command, nothing, say
from fusebert.errors import UsageError


def add_commands(command: Command) -> None:
    """Add it to the command line."""
    settings = command("settings", _settings, "List every setting of a recipe: default, range and meaning.")
    settings.add_argument("section", metavar="SECTION", nargs="?", help="training, audio, classification, ...")


def _settings(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.settings import sections

    found = sections()
    if options.section not in (None, *found):
        raise UsageError(f"{options.section!r} is not one of the sections: {', '.join(found)}")
    chosen = {name: settings for name, settings in found.items() if options.section in (None, name)}
    for name, settings in chosen.items():
        say(f"{name}:" if settings else f"{name}: nothing to set")
        for one in settings:
            default = "" if one.default in (None, {}, []) else f", by itself {one.default}"
            say(f"  {one.key} ({one.allowed}{default}): {one.meaning}")
    return {name: [one.to_json() for one in settings] for name, settings in chosen.items()}
