"""The commands of matching models: `embed`, `index`, `find`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fusebert.errors import RowError, UsageError

Say = Callable[[str], None]


def add_commands(
    command: Callable[..., argparse.ArgumentParser],
    say: Say,
    row_of: Callable[[list[str], dict[str, str]], dict[str, str]],
    print_line: Callable[[Any], None],
) -> None:
    """Add them to the command line.

    Args:
        command: name, function and summary -> the parser of a new command.
        say: tells the user a line.
        row_of: `--COLUMN VALUE ...` and the columns there are -> one row.
        print_line: one line of JSON on stdout.
    """
    embed = command(
        "embed", lambda options, rest: _embed(options, rest, say), "Write one side of each row as a vector (parquet)."
    )
    index = command(
        "index", lambda options, rest: _index(options, rest, say), "Make an index of one side of each row, on disk."
    )
    for parser, output in ((embed, "FILE.parquet"), (index, "FOLDER")):
        parser.add_argument("folder", metavar="MODEL", type=Path)
        parser.add_argument("table", metavar="TABLE", type=Path)
        parser.add_argument("--side", choices=("left", "right"), required=True, help="as task.left, task.right name it")
        parser.add_argument("--output", metavar=output, type=Path, required=True)
        parser.add_argument("--bad-rows", choices=("refuse", "skip"), default="refuse")

    find = command(
        "find",
        lambda options, rest: _find(options, rest, row_of, print_line),
        "Find the rows of an index that are most similar to one given as --COLUMN VALUE.",
    )
    find.usage = "fusebert find MODEL INDEX --COLUMN VALUE ... [--top K] [--json]"
    find.add_argument("folder", metavar="MODEL", type=Path)
    find.add_argument("index", metavar="INDEX", type=Path)
    find.add_argument("--top", metavar="K", type=int, default=10)


def _embed(options: argparse.Namespace, rest: list[str], say: Say) -> dict[str, Any]:
    from fusebert.evaluation.vectors import write_vectors

    if options.output.resolve() == options.table.resolve():
        raise UsageError(f"--output {options.output} is the table itself; choose another file")
    predictor, counts = _load(options, rest), {"rows": 0, "bad_rows": 0}
    counts["rows"] = write_vectors(options.output, _embedded(predictor, options, counts, say))
    say(f"{counts['rows']} vectors are in {options.output}")
    return counts | {"output": str(options.output)}


def _index(options: argparse.Namespace, rest: list[str], say: Say) -> dict[str, Any]:
    from fusebert.evaluation.vectors import write_index

    predictor, counts = _load(options, rest), {"rows": 0, "bad_rows": 0}
    rows = _embedded(predictor, options, counts, say)
    counts["rows"] = write_index(predictor, options.output, options.side, rows)
    say(f"{counts['rows']} rows are in {options.output}; search it with `fusebert find`")
    return counts | {"output": str(options.output)}


def _find(
    options: argparse.Namespace, rest: list[str], row_of: Callable[..., dict[str, str]], print_line: Callable[..., None]
) -> dict[str, Any]:
    from fusebert.evaluation.predictor import load
    from fusebert.evaluation.vectors import Index

    predictor = load(options.folder)
    found = Index(predictor, options.index).find(row_of(rest, predictor.columns), options.top)
    if not options.json:
        for one in found:
            print_line(one)
    return {"found": found}


def _load(options: argparse.Namespace, rest: list[str]) -> Any:
    if rest:
        raise UsageError(f"unknown argument {rest[0]}; see --help")
    from fusebert.evaluation.predictor import load

    return load(options.folder)


def _embedded(predictor: Any, options: argparse.Namespace, counts: dict[str, int], say: Say) -> Iterator[Any]:
    """Rows with their vectors; those that cannot be read are refused, or named and counted."""
    from fusebert.data.tables import read_table
    from fusebert.evaluation.vectors import embed

    for row, vector in embed(predictor, read_table(options.table), options.side):
        if not isinstance(vector, RowError):
            yield row, vector
        elif options.bad_rows == "refuse":
            raise vector
        else:
            counts["bad_rows"] += 1
            say(f"skipped: {vector}")
