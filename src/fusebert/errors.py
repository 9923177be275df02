"""Every error a user can meet. The command line prints them as one sentence and exits with `exit_code`."""

from __future__ import annotations

from pathlib import Path


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


class RowError(DataError):
    """One row of a table cannot be used.

    Args:
        problem: what is wrong and what to do, without a full stop.
        table: the file the row stands in.
        row: its number in the file, from 1; for text files this is the line.
        column: the column, where the problem lies in one.
    """

    def __init__(self, problem: str, table: Path | str, row: int, column: str | None = None) -> None:
        self.problem, self.table, self.row, self.column = problem, Path(table), row, column
        place = f"{table}, row {row}" + (f", column {column!r}" if column else "")
        super().__init__(f"{place}: {problem}")


class InputError(FusebertError):
    """A value cannot be read. Raised without a place; the dataset adds table and row."""


class ModelError(FusebertError):
    """A model folder or a checkpoint is incomplete, damaged, or unsupported."""


class DivergedError(FusebertError):
    """Losses or outputs are no longer numbers."""
