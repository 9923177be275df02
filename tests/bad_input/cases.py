"""The table of bad input: for each kind a command, the exit code it must end with, and the key words of its message."""

from __future__ import annotations

from tests.bad_input.data_cases import PICTURES, TABLES
from tests.bad_input.settings_cases import MODELS, RECIPES

CASES = {
    f"{group}: {case.name}": case
    for group, cases in {"picture": PICTURES, "table": TABLES, "recipe": RECIPES, "model": MODELS}.items()
    for case in cases
}
