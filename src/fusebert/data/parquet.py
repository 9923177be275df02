"""Rows of a parquet file, whose size on disk says nothing of what it holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

ROWS_AT_ONCE, BYTES_AT_ONCE = 64, 64 * 2**20
WORDS = "BYTE_ARRAY"
"""What parquet calls a column of texts or bytes."""
ROW_BYTES, ROW_VALUES = 64 * 2**20, 10**6
"""Of one column and an average row; more is no table of rows, and a file of a kilobyte can claim it."""


def parquet_rows(path: Path, check_names: Callable[[list[str]], None]) -> Iterator[dict[str, Any]]:
    """Each row's cells by column; decimals as numbers, and nothing for what is not a number.

    Args:
        check_names: is told the columns before anything is read.

    Raises:
        pyarrow.ArrowException, OSError, ValueError, OverflowError: the file is damaged, or holds more than it could.
    """
    from pyarrow import parquet, types

    file = parquet.ParquetFile(path)
    check_names(file.schema_arrow.names)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, row_bytes)))
    for chunk, rows in (
        (group.column(place), group.num_rows) for group in groups for place in range(group.num_columns)
    ):
        if chunk.total_uncompressed_size > ROW_BYTES * max(1, rows) or chunk.num_values > ROW_VALUES * max(1, rows):
            raise ValueError(f"the column {chunk.path_in_schema!r} holds more than a row can have")
    file = parquet.ParquetFile(path, read_dictionary=_long_repeated(path, file))
    for batch in file.iter_batches(batch_size=at_once):
        columns = [_cells(column) for column in batch.columns]
        for place, field in enumerate(batch.schema):
            if types.is_decimal(field.type):
                columns[place] = [None if cell is None else float(cell) for cell in columns[place]]
            elif types.is_floating(field.type):
                columns[place] = [None if cell is None or math.isnan(cell) else cell for cell in columns[place]]
        for cells in zip(*columns, strict=True):
            yield dict(zip(batch.schema.names, cells, strict=True))


def _long_repeated(path: Path, file: Any) -> Sequence[str]:
    """Columns of words, also within lists and structs, whose dictionary, which stands in the file once, holds a value
    that so many rows, or the lists of one, may not repeat: a file of a kilobyte can hold gigabytes so."""
    from pyarrow import compute, parquet

    found: set[str] = set()
    leaves = [leaf.path for leaf in map(file.schema.column, range(len(file.schema))) if leaf.physical_type == WORDS]
    named = [leaf for leaf in leaves if _has_cells(_column_of(leaf, file.schema_arrow))]
    looking = parquet.ParquetFile(path, read_dictionary=named)
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        for chunk in (group.column(place) for place in range(group.num_columns)):
            name, often = chunk.path_in_schema, ROWS_AT_ONCE * max(1, chunk.num_values // max(1, group.num_rows))
            if name in named and chunk.has_dictionary_page:
                for batch in islice(looking.iter_batches(1, [number], [name]), 1):
                    words = [dictionary for column in batch.columns for dictionary in _dictionaries(column)]
                    longest = max((compute.max(compute.binary_length(one)).as_py() or 0 for one in words), default=0)
                    found |= {name} if longest > BYTES_AT_ONCE // often else set()
    return sorted(found)


def _column_of(leaf: str, schema: Any) -> Any:
    """The type of the column that a leaf is part of; the names of both may have points."""
    names = [name for name in schema.names if f"{leaf}.".startswith(f"{name}.")]
    return schema.field(max(names, key=len)).type


def _has_cells(kind: Any) -> bool:
    """Whether `_cells` takes values of that type apart."""
    from pyarrow import types

    if _is_list(kind):
        return _has_cells(kind.value_type)
    if types.is_struct(kind):
        return all(_has_cells(kind.field(place).type) for place in range(kind.num_fields))
    return not types.is_nested(kind)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind))


def _dictionaries(array: Any) -> Iterator[Any]:
    from pyarrow import types

    if types.is_dictionary(array.type):
        yield array.dictionary
    elif _is_list(array.type):
        yield from _dictionaries(array.values)
    elif types.is_struct(array.type):
        for place in range(array.type.num_fields):
            yield from _dictionaries(array.field(place))


def _cells(array: Any) -> list[Any]:
    """Of an arrow array; equal values of a dictionary are one object."""
    from pyarrow import types

    if next(_dictionaries(array), None) is None:
        return array.to_pylist()  # type: ignore[no-any-return]
    if types.is_dictionary(array.type):
        used = array.indices.unique().drop_null()
        words = dict(zip(used.to_pylist(), array.dictionary.take(used).to_pylist(), strict=True))
        return [words.get(number) for number in array.indices.to_pylist()]
    there = array.is_valid().to_pylist()
    if _is_list(array.type):
        ends = array.offsets.to_pylist()
        values = _cells(array.values.slice(ends[0], ends[-1] - ends[0]))
        bounds = zip(there, pairwise(ends), strict=True)
        return [values[a - ends[0] : b - ends[0]] if given else None for given, (a, b) in bounds]
    names = [array.type.field(place).name for place in range(array.type.num_fields)]
    rows = zip(*(_cells(array.field(place)) for place in range(len(names))), strict=True)
    return [dict(zip(names, row, strict=True)) if given else None for given, row in zip(there, rows, strict=True)]
