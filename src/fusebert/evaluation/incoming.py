"""Rows on their way into an index: the keys that name them, and what is written of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

import numpy as np
import pyarrow as pa

from fusebert.data.decimals import UnclearNumber
from fusebert.data.tables import Rows
from fusebert.errors import InputError, RowError
from fusebert.evaluation.index_rows import IndexRows, schema
from fusebert.evaluation.vectors import Content, chunks, values_as_json, vector_array
from fusebert.modalities.values import without_fraction
from fusebert.types import Sample, is_given

OnBad = Callable[[RowError], None]
"""What to do with a row that cannot be used; it is left out unless this raises."""


def refuse(error: RowError) -> None:
    """Raise it."""
    raise error


class Incoming:
    """Rows on their way into an index: their keys are looked at, their columns noted.

    Args:
        key: the column that names a row; None where rows have no names.
        gone: keys that are to be removed, which no row may have.
        held: the index that they come to.
    """

    def __init__(self, key: str | None, gone: Set[str] = frozenset(), held: IndexRows | None = None) -> None:
        self.key, self._gone, self._held = key, gone, held
        self.columns: set[str] = set(held.columns) if held else set()
        self.unclear: set[str] = set(held.unclear) if held else set()
        self.met: dict[str, int] = {}
        self.written: set[str] = set()
        self.embedded = 0
        self.unnamed: RowError | None = None

    def checked(self, rows: Rows) -> Rows:
        """The rows; in the place of one whose key will not do what is wrong with it."""
        for row in rows:
            if isinstance(row, RowError):
                self.unnamed = row
            yield row if isinstance(row, RowError) or self.key is None else self._with_key(row, self.key)

    def _with_key(self, row: Sample, column: str) -> Sample | RowError:
        try:
            key = key_of(row.values.get(column))
        except InputError as error:
            self.unnamed = row.error(str(error), column)
            return self.unnamed
        if key in self._gone:
            return row.error(f"{key!r} is to be removed, too", column)
        if key in self.met:
            return row.error(f"{key!r} names row {self.met[key]}, too; each row needs a key of its own", column)
        self.met[key] = row.row
        return row

    def batches(self, rows: Iterable[tuple[Sample, Content]]) -> Iterator[pa.RecordBatch]:
        """The rows as they are written."""
        for some in chunks(rows):
            samples, contents = [row for row, _ in some], [content for _, content in some]
            for sample in samples:
                self.columns.update(sample.values)
                self.unclear.update(name for name, one in sample.values.items() if isinstance(one, UnclearNumber))
            keys = [None if self.key is None else key_of(sample.values[self.key]) for sample in samples]
            self.written.update(key for key in keys if key is not None)
            self.embedded += sum(self._held is None or self._held.known(digest) is None for _, digest in contents)
            vectors = np.stack([vector for vector, _ in contents])
            columns = {
                "row": [sample.row for sample in samples],
                "key": keys,
                "values": list(map(values_as_json, samples)),
                "content": [digest for _, digest in contents],
                "vector": vector_array(vectors),
            }
            yield pa.RecordBatch.from_pydict(columns, schema(vectors.shape[1]))


def key_of(raw: Any) -> str:
    """A row's name: text without outer spaces, a whole number also where it is written as a fraction (`2.0`), in text
    too. Raises InputError for what is none."""
    if not is_given(raw) or isinstance(raw, bool | bytes | list | dict):
        raise InputError("a key names a row: text or a number expected")
    return without_fraction(raw)


def keys_of(rows: Rows, column: str, on_bad: OnBad = refuse) -> Iterator[str]:
    """The keys that a table of rows to be removed names, some perhaps several times."""
    for row in rows:
        if isinstance(row, RowError):
            on_bad(row)
            continue
        try:
            key = key_of(row.values.get(column))
        except InputError as error:
            on_bad(row.error(str(error), column))
        else:
            yield key


def usable(
    rows: Iterable[tuple[Sample | RowError, Content | RowError]], on_bad: OnBad
) -> Iterator[tuple[Sample, Content]]:
    """The rows that can be used."""
    for row, content in rows:
        if isinstance(content, RowError):
            on_bad(content)
        elif isinstance(row, Sample):
            yield row, content
