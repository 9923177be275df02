"""What commands share: reading the rest of a command line, loading a model, telling what was found."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fusebert.errors import UsageError
from fusebert.stderr import lasting, visible
from fusebert.storage import check_finished, finished_around

Command = Callable[[str, Callable[[argparse.Namespace, list[str]], dict[str, Any]], str], argparse.ArgumentParser]
"""Name, what it does and a summary -> the parser of a new command."""
STDOUT = "stdout"
MOST_BESIDE = 4
"""Columns of a table, so that their names can be read on a narrow screen."""


def add_bad_rows(parser: argparse.ArgumentParser, *more: str) -> None:
    """The option `--bad-rows`."""
    parser.add_argument(
        "--bad-rows",
        choices=("refuse", "skip", *more),
        default="refuse",
        help="what to do with rows that cannot be read",
    )


def row_of(rest: Sequence[str], columns: dict[str, str]) -> dict[str, str]:
    """`--question "..." --image x.png` -> one row."""
    row: dict[str, str] = {}
    place = 0
    while place < len(rest):
        name, equals, value = rest[place].removeprefix("--").partition("=")
        if not rest[place].startswith("--") or name not in columns:
            raise UsageError(f"{rest[place]!r} is not an input of this model; it reads --{', --'.join(columns)}")
        if name in row:
            raise UsageError(f"--{name} is given twice; several rows go into a table")
        if not equals:
            place += 1
            if place == len(rest):
                raise UsageError(f"--{name} needs a value")
            value = rest[place]
        row[name] = as_typed(value)
        place += 1
    if not row:
        raise UsageError(f"give a table, or one row as --{' ... --'.join(columns)} ...")
    return row


def as_typed(value: str) -> str:
    """Words in UTF-8, which Python takes for single bytes where the locale is another one."""
    try:
        value.encode()
    except UnicodeEncodeError:
        with suppress(UnicodeDecodeError):
            return os.fsencode(value).decode()
    return value


def no_flags(rest: Sequence[str]) -> Sequence[str]:
    """The rest, in which settings may stand. Raises UsageError for an option."""
    for argument in rest:
        if argument.startswith("-"):
            raise UsageError(f"unknown option {argument}; see --help")
    return rest


def nothing(rest: Sequence[str]) -> None:
    """Raises UsageError where anything is left."""
    if rest:
        raise UsageError(f"unknown argument {rest[0]}; see --help")


def run_folder(source: Path, end: str = "") -> Path:
    """Where the model of a recipe, table or corpus goes by default: runs/NAME."""
    named = source if source.name.strip(".") else source.resolve()
    name = named.name.lstrip(".").split(".")[0]
    if not name:
        raise UsageError(f"{source} gives no name for the output; give --output")
    return Path("runs") / f"{name}{end}"


def load_model(folder: Path) -> Any:
    """The TrainedModel in a folder."""
    check_finished(folder)  # before imports that take seconds
    from fusebert.evaluation.trained_model import load

    return load(folder)


def refuse_sealed(output: Path) -> None:
    """Raise UsageError for a file in a finished folder, which would no longer be what its manifest says."""
    if folder := finished_around(output):
        raise UsageError(f"--output {output} is a file of the finished {folder}, or would be; choose another")


def check_output(output: Path | None, table: Path) -> None:
    """Raise UsageError for a file in which the answers to a table may not go."""
    if output is None:
        return
    if output.resolve() == table.resolve():
        raise UsageError(f"--output {output} is the table itself; choose another file")
    if output.is_dir():
        raise UsageError(f"--output {output} is a folder; name a file in it")
    refuse_sealed(output)
    if output.suffix.lower() in (".csv", ".tsv", ".parquet", ".gz"):
        raise UsageError(f"--output {output}: answers are lines of JSON; name a file that ends in .jsonl")


def give_answers(
    lines: Iterator[dict[str, Any]], options: argparse.Namespace, counts: dict[str, Any]
) -> dict[str, Any]:
    """Write the answers to a table where they are wanted, and tell how many there are.

    Args:
        counts: `rows` and `bad_rows`, which count while lines come.
    """
    if options.output is not None:
        from fusebert.storage import write_lines

        write_lines(options.output, (json.dumps(line, ensure_ascii=False) for line in lines))
        skipped = f", and {bad} rows that cannot be read," if (bad := counts["bad_rows"]) else ""
        say(f"{counts['rows'] - counts['bad_rows']} answers{skipped} are in {options.output}")
        return counts | {"output": str(options.output)}
    if options.json:
        return {"answers": list(lines)} | counts
    for line in lines:
        print_line(line)
    return counts


def speaks() -> bool:
    """Whether this process speaks for all that torchrun or accelerate started."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """A line on stderr."""
    with lasting():
        print(visible(text), file=sys.stderr, flush=True)


def warn_of_columns(found: dict[str, Any]) -> None:
    """Say which columns the rows lack, or hold what the model has never met, by `Unfamiliar.columns`."""
    from fusebert.evaluation.unfamiliar import only_others, only_unknown

    if unknown := found.get("unknown_columns"):
        say(f"Warning: {only_unknown(unknown)}")
    if absent := found.get("absent_columns"):
        say(f"Warning: {only_others(absent)}")


def plain(value: Any) -> Any:
    """As JSON has it; in words what JSON has not."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    is_plain = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else str(value)


def print_line(value: Any) -> None:
    """One line of JSON on stdout, in ASCII if its encoding has not all letters."""
    text = visible(json.dumps(value, ensure_ascii=False, allow_nan=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, allow_nan=False)
    print_text(text)


def print_text(text: str) -> None:
    """Lines on stdout; where it fails, the rest goes nowhere, lest it fail again at exit."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error.filename = STDOUT
        raise


def print_table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Few rows stand side by side, each metric on a line; of many rows the first metrics are shown."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def shown(words: str) -> str:
        return escape(visible(words))

    table = Table(title=shown(title), title_justify="left")
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    cells = {
        name: {row: number(scores[name]) if name in scores else "" for row, scores in rows.items()} for name in names
    }
    if len(rows) <= MOST_BESIDE:
        heads, lines = list(rows), {name: list(cells[name].values()) for name in names}
    else:
        heads = names[:MOST_BESIDE]
        lines = {row: [cells[name][row] for name in heads] for row in rows}
    table.add_column("")
    for head in heads:
        table.add_column(shown(head), justify="right", overflow="fold")
    for name, line in lines.items():
        table.add_row(shown(name), *line)
    with lasting():
        Console(stderr=True, emoji=False).print(table)


def number(value: float) -> str:
    """A count in full, another number in few digits."""
    from fusebert.training.progress import short

    return f"{value:,}" if isinstance(value, int) else short(value)
