"""Columns that rows lack, or in which they say what the model has never met."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from fusebert.data.tables import Rows, track_absent_columns
from fusebert.modalities.base import Processor
from fusebert.types import Sample, is_given

LEAST_VALUES, NEARLY_ALL = 20, 0.95
"""Of so many values in a column, the share that has to be unknown for a word about it."""


class Unfamiliar:
    """Looks at what passes by.

    Args:
        processors: by modality; those that know which values they know say so with `unknown(sample)`.
    """

    def __init__(self, processors: Mapping[str, Processor]) -> None:
        self._knowing = [processor for processor in processors.values() if hasattr(processor, "unknown")]
        self._absent = {column for processor in processors.values() for column in processor.columns}
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
        many = [name for name, count in self._given.items() if count >= LEAST_VALUES]
        unknown = [name for name in many if self._unknown[name] >= NEARLY_ALL * self._given[name]]
        found = {"absent_columns": sorted(self._absent), "unknown_columns": sorted(unknown)}
        return {what: names for what, names in found.items() if names}


def only_unknown(columns: Sequence[str]) -> str:
    """What to say of unknown ones."""
    return f"nearly all values of {', '.join(columns)} are unknown to the model; are they written as in training?"
