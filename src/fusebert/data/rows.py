"""Rows as a program names them: the path of a table, or dicts and tables that it holds itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from fusebert.data.tables import Rows, read_table
from fusebert.errors import GIVEN_ROW, GIVEN_TABLE, DataError, InputError, RowError
from fusebert.types import Sample

MOST_BITS = 10_000
"""Of a whole number; Python does not spell out much larger ones."""
TO_DICTS = "to_dicts", "to_pylist"
"""How tables of polars and pyarrow become dicts."""


def rows_of(rows: Any) -> Rows:
    """Rows of a table, or those a program hands over."""
    return read_table(Path(rows)) if isinstance(rows, str | Path) else rows_from_memory(rows)


def rows_from_memory(rows: Any) -> Rows:
    """Rows a program hands over: one dict, dicts (or what `read_table` yields), a table of pandas, polars or pyarrow.

    Media paths of dicts may lie anywhere. NaN, NaT and NA are missing values, as pandas has them. Raises DataError for
    what is no row.
    """
    if hasattr(getattr(rows, "columns", None), "is_unique"):
        if not rows.columns.is_unique:
            raise DataError(
                f"{GIVEN_TABLE} has the column {rows.columns[rows.columns.duplicated()][0]!r} more than once"
            )
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    elif len(set(names := getattr(rows, "column_names", None) or ())) < len(names):
        raise DataError(f"{GIVEN_TABLE} has the column {Counter(names).most_common(1)[0][0]!r} more than once")
    elif (to_dicts := next((getattr(rows, name) for name in TO_DICTS if hasattr(rows, name)), None)) is not None:
        rows = to_dicts()
    if not isinstance(rows, Iterable):
        raise DataError(f"a dict, a list of dicts, a DataFrame or a path expected, found {type(rows).__name__}")
    table, rows = (GIVEN_ROW, [rows]) if isinstance(rows, Mapping) else (GIVEN_TABLE, rows)
    for number, values in enumerate(rows, 1):
        if not isinstance(values, Mapping | Sample | RowError):
            yield RowError(f"a dict expected, found {type(values).__name__}", table, number)
            continue
        if isinstance(values, Mapping):
            try:
                given = {str(name): _plain(value) for name, value in values.items()}
            except InputError as error:
                yield RowError(str(error), table, number)
                continue
            if len(given) < len(values):
                raise DataError(f"{table}, row {number}: two columns are written alike, such as 1 and '1'; rename one")
            values = Sample(table, number, given, None)
        yield values


def _plain(value: Any) -> Any:
    """As a file gives it: None for a missing value, a list for a tuple or a row of an array, a number of Python's.
    Raises InputError for one that no file holds."""
    if _is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]").item()  # of nanoseconds numpy makes a whole number
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 1):
        value = value.tolist()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise InputError(f"a whole number of more than {MOST_BITS:,} bits")
    if isinstance(value, Mapping) and not value.keys() & {"array", "bytes"}:  # of a sound or a picture
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _is_missing(value: Any) -> bool:
    is_nan = isinstance(value, float | np.floating) and bool(np.isnan(value))
    return is_nan or type(value).__name__ in ("NaTType", "NAType")  # pandas', which need not be installed
