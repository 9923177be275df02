"""The table of bad input: for each kind a command, the exit code it must end with, and the key words of its message."""

from __future__ import annotations

from tests.bad_input.data_cases import PICTURES, TABLES
from tests.bad_input.media_cases import COLUMNS, EVENTS, HISTORIES, SOUNDS
from tests.bad_input.settings_cases import MODELS, RECIPES

GROUPS = {
    "picture": PICTURES,
    "sound": SOUNDS,
    "table": TABLES,
    "column": COLUMNS,
    "history": HISTORIES,
    "events": EVENTS,
    "recipe": RECIPES,
    "model": MODELS,
}
CASES = {f"{group}: {case.name}": case for group, cases in GROUPS.items() for case in cases}
