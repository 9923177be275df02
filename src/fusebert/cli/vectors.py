"""The commands of matching models: `embed`, `index`, `find`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusebert.cli.common import Command, add_bad_rows, load_model, nothing, print_line, refuse_sealed, row_of, say
from fusebert.errors import RowError, UsageError


def add_commands(command: Command) -> None:
    """Add them to the command line."""
    embed = command("embed", _embed, "Write one side of each row as a vector (parquet).")
    index = command("index", _index, "Make an index of one side of each row, on disk.")
    for parser, output in ((embed, "FILE.parquet"), (index, "FOLDER")):
        parser.add_argument("folder", metavar="MODEL", type=Path)
        parser.add_argument("table", metavar="TABLE", type=Path)
        parser.add_argument("--side", choices=("left", "right"), required=True, help="as task.left, task.right name it")
        parser.add_argument("--output", metavar=output, type=Path, required=True)
        add_bad_rows(parser)

    find = command(
        "find",
        _find,
        "Find the rows of an index that are most similar to one given as --COLUMN VALUE.",
    )
    find.usage = "fusebert find MODEL INDEX --COLUMN VALUE ... [--top K] [--json]"
    find.add_argument("folder", metavar="MODEL", type=Path)
    find.add_argument("index", metavar="INDEX", type=Path)
    find.add_argument("--top", metavar="K", type=int, default=10)


def _embed(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.evaluation.vectors import write_vectors

    if options.output.resolve() == options.table.resolve():
        raise UsageError(f"--output {options.output} is the table itself; choose another file")
    refuse_sealed(options.output)
    if options.output.suffix in (".csv", ".tsv", ".json", ".jsonl"):
        raise UsageError(f"--output {options.output}: vectors are a parquet file; name one that ends in .parquet")
    predictor, counts = load_model(options.folder), {"rows": 0, "bad_rows": 0}
    counts["rows"] = write_vectors(options.output, _embedded(predictor, options, counts))
    say(f"{counts['rows']} vectors are in {options.output}")
    return counts | {"output": str(options.output)}


def _index(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.evaluation.vectors import write_index

    predictor, counts = load_model(options.folder), {"rows": 0, "bad_rows": 0}
    rows = _embedded(predictor, options, counts)
    counts["rows"] = write_index(predictor, options.output, options.side, rows)
    say(f"{counts['rows']} rows are in {options.output}; search it with `fusebert find`")
    return counts | {"output": str(options.output)}


def _find(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.evaluation.vectors import Index

    predictor = load_model(options.folder)
    found = Index(predictor, options.index).find(row_of(rest, predictor.columns), options.top)
    if not options.json:
        for one in found:
            print_line(one)
    return {"found": found}


def _embedded(predictor: Any, options: argparse.Namespace, counts: dict[str, int]) -> Iterator[Any]:
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
