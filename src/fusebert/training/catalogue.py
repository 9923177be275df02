"""The items that can be recommended, and what describes each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RowError, UsageError
from fusebert.evaluation.encode import Encoder
from fusebert.evaluation.predictor import PREDICTOR, load
from fusebert.evaluation.vectors import embed, side_columns
from fusebert.modalities.values import as_category, is_missing
from fusebert.types import Sample


def read_catalogue(table: Path, item: str) -> dict[str, Sample]:
    """The rows of a catalogue by the name of their item."""
    rows: dict[str, Sample] = {}
    for row in read_table(table):
        if isinstance(row, RowError):
            raise row
        if is_missing(raw := row.values.get(item)):
            raise row.error("it names no item", item)
        try:
            name = as_category(raw)
        except InputError as error:
            raise row.error(str(error), item) from None
        if name in rows:
            raise row.error(f"{name!r} stands in row {rows[name].row}, too", item)
        rows[name] = row
    if not rows:
        raise DataError(f"the catalogue {table} has no rows")
    return rows


def describe(reader: str, item: str, rows: Sequence[Sample | None]) -> np.ndarray:
    """float32[items, C]: what a model makes of each row of the catalogue, centred, of length 1 on average; zeros for no
    row.

    Args:
        reader: a BERT, which reads all columns but `item` as one text; or the folder of a matching model, which reads
            the columns of one of its sides, such as a picture.
    """
    places = [place for place, row in enumerate(rows) if row is not None]
    found = [row for row in rows if row is not None]
    if (Path(reader) / PREDICTOR).is_file():
        vectors = _matched(Path(reader), found)
    else:
        texts = [_text({name: value for name, value in row.values.items() if name != item}) for row in found]
        vectors = Encoder(reader).encode(texts)
    content = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    vectors = vectors - vectors.mean(axis=0)
    content[places] = vectors / max(float(np.sqrt((vectors**2).sum(axis=1).mean())), 1e-6)
    return content


def _matched(folder: Path, rows: Sequence[Sample]) -> np.ndarray:
    predictor = load(folder)
    sides = side_columns(predictor)
    there = {column for row in rows for column in row.values}
    side = next((name for name, columns in sides.items() if there.issuperset(columns)), None)
    if side is None:
        needed = " or ".join(", ".join(columns) for columns in sides.values())
        raise UsageError(f"task.content={folder} reads {needed}, which {rows[0].table} does not have")
    vectors = []
    for _, vector in embed(predictor, iter(rows), side):
        if isinstance(vector, RowError):
            raise vector
        vectors.append(vector)
    return np.stack(vectors)


def _text(values: dict[str, Any]) -> str:
    """All that a row says, lists with commas, columns with full stops."""
    given = [value for value in values.values() if not is_missing(value)]
    said = (", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in given)
    return ". ".join(text for text in said if text)
