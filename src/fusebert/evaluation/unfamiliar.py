"""Columns that rows lack, or in which they say what the model has never met."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusebert.data.tables import Rows, track_absent_columns
from fusebert.errors import named
from fusebert.modalities.base import Processor
from fusebert.types import Sample, is_given

LEAST_VALUES, NEARLY_ALL = 20, 0.95
"""Of so many values in a column, the share that has to be unknown for a word about it."""


class Unfamiliar:
    """Looks at what passes by.

    Args:
        processors: by modality; those that know which values they know say so with `unknown(sample)`.
        columns: those of them that are looked at, such as a side's; None for all.
    """

    def __init__(self, processors: Mapping[str, Processor], columns: Iterable[str] | None = None) -> None:
        self._knowing = [processor for processor in processors.values() if hasattr(processor, "unknown")]
        read = {column for processor in processors.values() for column in processor.columns}
        self._columns = frozenset(read if columns is None else read.intersection(columns))
        self._absent = set(self._columns)
        self._given, self._unknown = Counter[str](), Counter[str]()

    def watch(self, rows: Rows) -> Rows:
        """The rows as they are."""
        for row in track_absent_columns(rows, self._absent):
            if isinstance(row, Sample):
                for processor in self._knowing:
                    self._given.update(name for name in processor.columns if is_given(row.values.get(name)))
                    self._unknown.update(processor.unknown(row))
            yield row

    @property
    def columns(self) -> dict[str, list[str]]:
        """Once all have passed: `absent_columns` that no row has, `unknown_columns` whose values nearly all are
        unknown; neither where there are none."""
        many = [name for name in self._columns if self._given[name] >= LEAST_VALUES]
        unknown = [name for name in many if self._unknown[name] >= NEARLY_ALL * self._given[name]]
        found = {"absent_columns": sorted(self._absent), "unknown_columns": sorted(unknown)}
        return {what: names for what, names in found.items() if names}

    def warn(self, rows: Any) -> None:
        """Once all have passed: warn of them the caller of the caller, who gave `rows`; dicts may lack columns."""
        found = self.columns
        if "absent_columns" in found and (isinstance(rows, str | Path) or hasattr(rows, "columns")):
            warnings.warn(only_others(found["absent_columns"]), stacklevel=3)
        if "unknown_columns" in found:
            warnings.warn(only_unknown(found["unknown_columns"]), stacklevel=3)


def no_such_columns(absent: Iterable[str]) -> str:
    """What to say of columns that the model reads and no row has."""
    return f"no row has {named(sorted(absent))}, which the model reads"


def only_others(absent: Iterable[str]) -> str:
    """What to say of them once the rows are read."""
    return f"{no_such_columns(absent)}; it did without"


def only_unknown(columns: Sequence[str]) -> str:
    """What to say of unknown ones."""
    return f"nearly all values of {', '.join(columns)} are unknown to the model; are they written as in training?"
