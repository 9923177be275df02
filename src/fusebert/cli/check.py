"""The command that looks at tables before anything is trained: `check`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fusebert.cli.common import Command, no_flags, say
from fusebert.errors import row_in_words


def add_commands(command: Command) -> None:
    """Add them to the command line."""
    check = command("check", _check, "Look at tables: what columns are, which rows cannot be used, what may be wrong.")
    check.add_argument(
        "source",
        metavar="TABLE|FOLDER",
        type=Path,
        help="a table, or a folder of train, val, test; settings are KEY=VALUE, see `fusebert settings`",
    )
    check.add_argument("--target", metavar="COLUMN")
    check.add_argument("--against", metavar="TABLE", type=Path, nargs="+", default=[], help="tables to be scored")
    check.add_argument("--strict", action="store_true", help="refuse columns whose kind is ambiguous")


def _check(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.doctor.check import check
    from fusebert.recipe_yaml import parse_overrides

    given = [str(path) for path in options.against if "=" in str(path) and not path.exists()]  # --against takes several
    against = [path for path in options.against if str(path) not in given]
    settings = parse_overrides([*given, *no_flags(rest)])
    found, findings = check(options.source, options.target, options.strict, against, settings)
    for note in found["notes"]:
        say(note)
    for column in found["columns"]:
        is_target = column["column"] == found["target"]
        setting = "task.name=TASK" if is_target else f"data.columns.{column['column']}=MODALITY"
        doubt = f"  AMBIGUOUS; {setting} says what it is" if column["ambiguous"] else ""
        say(f"{column['column']}: {column['kind']} ({column['why']}){doubt}")
    for line in found["problems"]:
        say(_problem(line))
    for finding in findings:
        say(f"{finding.fault}: {finding}")
    things = "1 thing" if len(findings) == 1 else f"{len(findings)} things"
    ambiguous = sum(column["ambiguous"] for column in found["columns"])
    also = [
        f"{count} {what}" for count, what in ((ambiguous, "ambiguous columns"), (len(found["notes"]), "notes")) if count
    ]
    above = f"; above, {' and '.join(also)}" if also else ""
    say(f"{found['rows']} rows, {found['bad_rows']} of them cannot be used; {things} may be wrong{above}")
    if found["bad_rows"]:
        found["error"] = (
            f"{options.source}: {found['bad_rows']} of {found['rows']} rows cannot be used; "
            f"first: {_problem(found['problems'][0])}"
        )
    return found


def _problem(line: dict[str, Any]) -> str:
    column = f", column {line['column']!r}" if line["column"] else ""
    return f"{Path(line['table']).name}, {row_in_words(line['row'], line['line'])}{column}: {line['problem']}"
