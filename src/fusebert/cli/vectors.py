"""The commands of matching models: `embed`, `index`, `find`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fusebert.cli.common import (
    Command,
    add_bad_rows,
    as_typed,
    check_output,
    give_answers,
    load_model,
    nothing,
    plain,
    print_line,
    refuse_sealed,
    row_of,
    say,
    warn_of_columns,
)
from fusebert.errors import RowError, UsageError


def add_commands(command: Command) -> None:
    """Add them to the command line."""
    side = "as task.left, task.right name it"
    embed = command("embed", _embed, "Write one side of each row as a vector (parquet).")
    embed.add_argument("folder", metavar="MODEL", type=Path)
    embed.add_argument("table", metavar="TABLE", type=Path)
    embed.add_argument("--side", choices=("left", "right"), required=True, help=side)
    embed.add_argument("--output", metavar="FILE.parquet", type=Path, required=True)
    add_bad_rows(embed)

    index = command("index", _index, "Make an index of one side of each row, on disk, or change one.")
    index.usage = (
        "fusebert index MODEL TABLE --side left|right [--key COLUMN] --output FOLDER [--bad-rows skip] [--json]\n"
        "       fusebert index MODEL [TABLE] --update FOLDER [--remove TABLE] [--remove-others] [--bad-rows skip]"
    )
    index.add_argument("folder", metavar="MODEL", type=Path)
    index.add_argument("--side", choices=("left", "right"), help=side)
    index.add_argument("--key", metavar="COLUMN", help="the column that names a row, for an index that can change")
    index.add_argument("--output", metavar="FOLDER", type=Path, help="of a new index")
    changed = "an index with a key: rows of TABLE replace those with the same key, others are added"
    index.add_argument("--update", metavar="FOLDER", type=Path, help=changed)
    index.add_argument("--remove", metavar="TABLE", type=Path, help="take away the rows whose key this table names")
    index.add_argument("--remove-others", action="store_true", help="take away the rows whose key TABLE does not have")
    add_bad_rows(index)

    find = command(
        "find", _find, "Find the rows of an index that are most similar to each row of a table, or to one row."
    )
    options = "[--where CONDITION ...] [--top K] [--output FILE.jsonl] [--bad-rows skip] [--json]"
    find.usage = f"fusebert find MODEL INDEX (TABLE | --COLUMN VALUE ...) {options}"
    find.add_argument("folder", metavar="MODEL", type=Path)
    find.add_argument("index", metavar="INDEX", type=Path)
    find.add_argument(
        "--where",
        metavar="CONDITION",
        action="append",
        default=[],
        help="find only rows for which this holds, as category=shoes or 'price<50' (=, !=, <, <=, >, >=); may be given "
        "again: all have to hold, but of several = for one column any one",
    )
    find.add_argument("--top", metavar="K", type=int, default=10)
    find.add_argument("--output", metavar="FILE.jsonl", type=Path, help="where answers go (default: stdout)")
    add_bad_rows(find)


def _embed(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.evaluation.vectors import unfamiliar_to, write_vectors

    if options.output.resolve() == options.table.resolve():
        raise UsageError(f"--output {options.output} is the table itself; choose another file")
    refuse_sealed(options.output)
    if options.output.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".gz"):
        raise UsageError(f"--output {options.output}: vectors are a parquet file; name one that ends in .parquet")
    from fusebert.data.tables import read_table

    predictor, counts = load_model(options.folder), {"rows": 0, "bad_rows": 0}
    unfamiliar = unfamiliar_to(predictor, options.side)
    rows = unfamiliar.watch(read_table(options.table))
    counts["rows"] = write_vectors(options.output, _embedded(predictor, rows, options.side, _on_bad(options, counts)))
    say(f"{counts['rows']} vectors are in {options.output}")
    warn_of_columns(unfamiliar.columns)
    return counts | unfamiliar.columns | {"output": str(options.output)}


def _embedded(predictor: Any, rows: Iterator[Any], side: str, on_bad: Callable[[RowError], None]) -> Iterator[Any]:
    """Rows with their vectors."""
    from fusebert.evaluation.vectors import embed

    for row, vector in embed(predictor, rows, side):
        if isinstance(vector, RowError):
            on_bad(vector)
        else:
            yield row, vector


def _on_bad(options: argparse.Namespace, counts: dict[str, int]) -> Callable[[RowError], None]:
    """Rows that cannot be used are refused, or named and counted."""

    def tell(error: RowError) -> None:
        if options.bad_rows == "refuse":
            raise error
        counts["bad_rows"] += 1
        say(f"skipped: {error}")

    return tell


def _index(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    given = rest[:1] if not rest[:1] or not rest[0].startswith("-") else []
    nothing(rest[len(given) :])
    table = Path(given[0]) if given else None
    if (options.output is None) == (options.update is None):
        raise UsageError("give --output FOLDER for a new index, or --update FOLDER to change one")
    return _new_index(options, table) if options.update is None else _changed_index(options, table)


def _new_index(options: argparse.Namespace, table: Path | None) -> dict[str, Any]:
    if table is None or options.side is None:
        raise UsageError("a new index needs a table and --side left or --side right; see --help")
    if options.remove is not None or options.remove_others:
        raise UsageError("rows are removed from an index that is there: name it with --update")
    predictor, counts = load_model(options.folder), {"rows": 0, "bad_rows": 0}
    from fusebert.data.tables import read_table
    from fusebert.evaluation.index import write_index
    from fusebert.evaluation.vectors import unfamiliar_to

    on_bad, unfamiliar = _on_bad(options, counts), unfamiliar_to(predictor, options.side)
    rows = unfamiliar.watch(read_table(table))
    counts["rows"] = write_index(predictor, options.output, rows, options.side, options.key, on_bad)
    say(f"{counts['rows']} rows are in {options.output}; search it with `fusebert find`")
    warn_of_columns(unfamiliar.columns)
    return counts | unfamiliar.columns | {"output": str(options.output)}


def _changed_index(options: argparse.Namespace, table: Path | None) -> dict[str, Any]:
    if options.side is not None or options.key is not None:
        raise UsageError("--side and --key are those of the index that is changed; leave them out")
    if table is None and (options.remove is None or options.remove_others):
        raise UsageError("give a table of rows to add or replace, or one with --remove; see --help")
    predictor, counts = load_model(options.folder), {"bad_rows": 0}
    from fusebert.data.tables import read_table
    from fusebert.evaluation.incoming import keys_of
    from fusebert.evaluation.index import Index

    on_bad = _on_bad(options, counts)
    index = Index(predictor, options.update)
    gone = [] if options.remove is None or index.key is None else keys_of(read_table(options.remove), index.key, on_bad)
    changed = index.update(() if table is None else table, gone, options.remove_others, on_bad)
    told = ", ".join(f"{changed[name]} {name}" for name in ("added", "replaced", "removed"))
    say(f"{told}; {changed['rows']} rows are in {options.update}, of which the model read {changed['embedded']} now")
    if changed["unknown"]:
        say(f"Warning: the index had no row with {changed['unknown']} of the keys in {options.remove}")
    warn_of_columns(changed)
    return changed | counts | {"output": str(options.update)}


def _find(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    predictor = load_model(options.folder)
    from fusebert.evaluation.index import Index
    from fusebert.evaluation.vectors import unfamiliar_to

    where = [as_typed(one) for one in options.where]
    if rest and not rest[0].startswith("-"):  # argparse of different Pythons would take a VALUE for the TABLE
        nothing(rest[1:])
        table = Path(rest[0])
        check_output(options.output, table)
        index, counts = Index(predictor, options.index), {"rows": 0, "bad_rows": 0}
        _say_of_none(index, where)
        rows, side = index.asked(table)
        unfamiliar = unfamiliar_to(predictor, side)
        answers = index.answers(unfamiliar.watch(rows), options.top, where, side)
        found = give_answers(_answers(answers, options, counts), options, counts)
        warn_of_columns(unfamiliar.columns)
        return found | unfamiliar.columns
    if options.output is not None:
        raise UsageError("--output is for the answers to a table; those to one row go to stdout")
    row = row_of(rest, predictor.columns)
    index = Index(predictor, options.index)
    found = index.find(row, options.top, where)
    _say_of_none(index, where)
    if not options.json:
        for one in found:
            print_line(one)
    return {"found": found}


def _say_of_none(index: Any, where: list[str]) -> None:
    if where and not index.matching(where):
        say(f"Note: of {len(index)} rows in the index there is none with {' and '.join(where)}")


def _answers(answers: Iterator[Any], options: argparse.Namespace, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Of each row of a table, in order; rows are counted as they come."""
    on_bad = _on_bad(options, counts)
    for row, found in answers:
        counts["rows"] += 1
        own = {"row": row.row}
        if isinstance(found, RowError):
            on_bad(found)
            yield own | {"error": found.problem}
            continue
        yield own | {name: plain(row.values[name]) for name in ("id",) if name in row.values} | {"found": found}
    if not counts["rows"]:
        say("Note: the table has no rows")
