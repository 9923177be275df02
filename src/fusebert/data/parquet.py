"""Rows of a parquet file, whose size on disk says nothing of what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

ROWS_AT_ONCE, BYTES_AT_ONCE = 64, 64 * 2**20


def parquet_rows(path: Path, check_names: Callable[[list[str]], None]) -> Iterator[dict[str, Any]]:
    """Each row's cells by column; decimals as numbers.

    Args:
        check_names: is told the columns before anything is read.

    Raises:
        pyarrow.ArrowException, OSError, ValueError, OverflowError: the file is damaged.
    """
    from pyarrow import parquet, types

    file = parquet.ParquetFile(path)
    check_names(file.schema_arrow.names)
    exact = [field.name for field in file.schema_arrow if types.is_decimal(field.type)]
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    row_bytes = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
    at_once = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // max(1, row_bytes)))
    file = parquet.ParquetFile(path, read_dictionary=_long_repeated(path, file))
    for batch in file.iter_batches(batch_size=at_once):
        columns = [_cells(column) for column in batch.columns]
        for cells in zip(*columns, strict=True):
            values = dict(zip(batch.schema.names, cells, strict=True))
            yield values | {name: float(values[name]) for name in exact if values[name] is not None}


def _long_repeated(path: Path, file: Any) -> Sequence[str]:
    """Columns whose dictionary, which stands in the file once, holds a value that ROWS_AT_ONCE rows may not repeat: a
    file of a kilobyte can hold gigabytes so."""
    from pyarrow import DictionaryArray, compute, parquet, types

    found: set[str] = set()
    words = {field.name for field in file.schema_arrow if types.is_string(field.type) or types.is_binary(field.type)}
    looking = parquet.ParquetFile(path, read_dictionary=words)
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        chunks = [group.column(place) for place in range(group.num_columns)]
        named = [one.path_in_schema for one in chunks if one.path_in_schema in words and one.has_dictionary_page]
        for batch in islice(looking.iter_batches(1, [number], named), 1 if named else 0):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if isinstance(column, DictionaryArray):
                    longest = compute.max(compute.binary_length(column.dictionary)).as_py() or 0
                    found |= {name} if longest > BYTES_AT_ONCE // ROWS_AT_ONCE else set()
    return sorted(found)


def _cells(column: Any) -> list[Any]:
    """Of an arrow array; equal values of a dictionary are one object."""
    if not hasattr(column, "dictionary"):
        return column.to_pylist()  # type: ignore[no-any-return]
    used = column.indices.unique().drop_null()
    words = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
    return [words.get(number) for number in column.indices.to_pylist()]
