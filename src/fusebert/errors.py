"""Every error a user can meet. The command line prints them as one sentence and exits with `exit_code`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

GIVEN_ROW, GIVEN_TABLE = Path("the given row"), Path("the given table")
"""What stands for a file where a program hands over rows, or a user types one."""


NAMED = 5
"""Columns, labels or items that a message tells."""


def named(items: Sequence[Any]) -> str:
    """The first of them, and how many more."""
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(map(repr, items[:NAMED])) + more


def row_in_words(row: int, line: int | None) -> str:
    """The row, and its line where that is another number."""
    return f"row {row}" + (f" (line {line})" if line not in (None, row) else "")


def how_to_install(extra: str) -> str:
    """How to install an optional part: fusebert is not on PyPI."""
    return f"in the folder of fusebert's source, run pip install '.[{extra}]'"


class FusebertError(Exception):
    """Something is wrong that the user can mend. The message says what, where, and what to do."""

    exit_code = 1


class UsageError(FusebertError):
    """The command or the recipe asks for something that does not exist."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe is missing, is not YAML, or has a wrong key or value."""


class DataError(FusebertError):
    """A table or a media file cannot be used as it is."""


LONGEST_PROBLEM = 500


class RowError(DataError):
    """One row of a table cannot be used.

    Args:
        problem: what is wrong and what to do, without a full stop.
        table: the file the row stands in.
        row: its number among the table's rows, from 1; a header is no row.
        column: the column, where the problem lies in one.
        line: of a text file, where the row begins, from 1.
    """

    def __init__(
        self, problem: str, table: Path | str, row: int, column: str | None = None, line: int | None = None
    ) -> None:
        if len(problem) > LONGEST_PROBLEM:  # it quotes a huge cell
            problem = f"{problem[:LONGEST_PROBLEM]}..."
        self.problem, self.table, self.row, self.column, self.line = problem, Path(table), row, column, line
        alone = self.table == GIVEN_ROW
        place = f"{table}" if alone else f"{table}, {row_in_words(row, line)}"
        place += f", column {column!r}" if column else ""
        super().__init__(f"{place}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Worker processes send it."""
        return type(self), (self.problem, self.table, self.row, self.column, self.line)

    def to_json(self) -> dict[str, Any]:
        """As lists of bad rows hold it."""
        found = {"table": str(self.table), "row": self.row, "line": self.line}
        return found | {"column": self.column, "problem": self.problem}


class InputError(FusebertError):
    """A value cannot be read. Raised without a place; the dataset adds table and row."""


class ModelError(FusebertError):
    """A model folder or a checkpoint is incomplete, damaged, or unsupported."""


class DivergedError(FusebertError):
    """Losses or outputs are no longer numbers."""
