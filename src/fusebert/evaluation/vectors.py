"""Vectors of a matching model: written to a file, or into an index on disk that finds the nearest (LanceDB)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fusebert.data.dataset import Preparer
from fusebert.data.tables import Rows, rows_from_memory
from fusebert.errors import DataError, ModelError, RowError, UsageError, how_to_install
from fusebert.evaluation.inference import in_order, infer
from fusebert.evaluation.lance_manifest import refuse_other_places
from fusebert.storage import (
    MANIFEST,
    file_hash,
    read_json,
    refuse_in_finished,
    verify,
    whole_or_absent,
    write_folder,
    write_json,
)
from fusebert.types import Example, Sample, is_given

if TYPE_CHECKING:
    from fusebert.evaluation.predictor import Predictor

SIDES = ("left", "right")
ABOUT, STORE, TABLE = "index.json", "store", "rows"
ROWS_AT_ONCE = 1024
MOST_FOUND = 1000

Embedded = tuple[Sample | RowError, np.ndarray | RowError]


def embed(predictor: Predictor, rows: Rows, side: str) -> Iterator[Embedded]:
    """Each row with its vector float32[vector_size] of length 1, or with what is wrong with it, in order.

    Args:
        side: left or right; the columns of the other one are not read.

    Raises:
        UsageError: the model makes no vectors, or has no such side.
    """
    columns = side_columns(predictor)
    if side not in columns:
        raise UsageError(f"side={side!r} is neither 'left' nor 'right'")
    sides = [columns[name] if name == side else () for name in SIDES]

    def vectors(examples: list[Example]) -> np.ndarray:
        both = infer(predictor.model, examples, predictor.collator, predictor.precision)
        return np.split(both, 2, axis=1)[SIDES.index(side)]

    return in_order(rows, Preparer(predictor.processors, sides=sides), vectors)


def side_columns(predictor: Predictor) -> dict[str, Sequence[str]]:
    """The columns of each side. Raises UsageError of a model that makes no vectors."""
    sides = getattr(predictor.task, "sides", None)
    if sides is None:
        raise UsageError(
            f"{predictor.folder} answers with {predictor.task.name}, it makes no vectors; train a model with "
            "task.name=matching task.left=COLUMN task.right=COLUMN"
        )
    return dict(zip(SIDES, sides, strict=True))


def write_vectors(path: Path, embedded: Iterable[tuple[Sample, np.ndarray]]) -> int:
    """A parquet file with `row` (its number in the table), `values` (as JSON) and `vector`; how many.

    The file appears once it is whole.

    Raises:
        UsageError: there is no row.
    """
    batches = _batches(embedded)
    first = next(batches, None)
    if first is None:
        raise UsageError(f"there are no rows to write to {path}")
    count = len(first)
    with whole_or_absent(path) as file, parquet.ParquetWriter(file, first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
            count += len(batch)
    return count


def write_index(predictor: Predictor, folder: Path, side: str, embedded: Iterable[tuple[Sample, np.ndarray]]) -> int:
    """A folder that `find` searches, which needs no server; how many rows it holds.

    It is there once it is whole, and is bound to the model that made its vectors.

    Raises:
        UsageError: LanceDB is not installed, `folder` exists, or there is no row.
        DataError: there is no room for it.
    """
    lancedb = _lancedb()
    if folder.exists():
        raise UsageError(f"{folder} exists already; choose another --output")
    refuse_in_finished(folder)
    batches = _batches(embedded)
    first = next(batches, None)
    if first is None:
        raise UsageError(f"there are no rows to write to {folder}")
    count = 0

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal count
        for batch in (first, *batches):
            count += len(batch)
            yield batch

    def fill(beside: Path) -> None:
        try:
            lancedb.connect(beside / STORE).create_table(TABLE, data=counted(), schema=first.schema)
        except RuntimeError as error:  # of a full disk, for one
            raise DataError(f"{folder} cannot be written: {' '.join(str(error).split())[:200]}") from None
        write_json(beside / ABOUT, {"model": _model_hash(predictor), "side": side, "rows": count})

    write_folder(folder, fill)
    return count


class Index:
    """An index on disk, opened with the model that made it.

    Raises:
        ModelError: it is damaged, names files elsewhere, or another model made it.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        if not (folder / MANIFEST).is_file():
            raise ModelError(f"{folder} is not an index; make one with `fusebert index`")
        verify(folder)
        refuse_other_places(folder / STORE)
        about = read_json(folder / ABOUT)
        if not isinstance(about, dict) or not {"model", "side"} <= about.keys() or about["side"] not in SIDES:
            raise ModelError(f"{folder / ABOUT} is damaged; index the table again")
        if about["model"] != _model_hash(predictor):
            raise ModelError(f"{folder} was made by another model than {predictor.folder}; index the table again")
        self.predictor, self.side = predictor, about["side"]
        lancedb = _lancedb()
        try:
            self._table = lancedb.connect(folder / STORE).open_table(TABLE)
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{folder} cannot be opened: {' '.join(str(error).split())[:200]}") from None

    def find(self, row: Mapping[str, Any], top: int = 10) -> list[dict[str, Any]]:
        """The rows whose indexed side is most similar to this one, most similar first: `row`, `values`, `similarity`.

        All rows are compared, so none is missed.

        Args:
            row: values of one side, whichever it is.
            top: how many, at most 1000.
        """
        if not 1 <= top <= MOST_FOUND:
            raise UsageError(f"--top must be at least 1 and at most {MOST_FOUND}, not {top}")
        ((_, vector),) = embed(self.predictor, rows_from_memory(row), _side_of(self.predictor, row))
        if isinstance(vector, RowError):
            raise vector
        found = self._table.search(vector).metric("cosine").limit(top).to_list()
        return [
            {"row": one["row"], "values": json.loads(one["values"]), "similarity": round(1 - one["_distance"], 6)}
            for one in found
        ]


def _side_of(predictor: Predictor, row: Mapping[str, Any]) -> str:
    given = {column for column, value in row.items() if is_given(value)}
    columns = side_columns(predictor)
    touched = [side for side in SIDES if given & set(columns[side])]
    if len(touched) != 1:
        both = " or ".join(f"--{' --'.join(columns[side])}" for side in SIDES)
        raise UsageError(f"a query is one side of a row: {both}")
    return touched[0]


def _batches(embedded: Iterable[tuple[Sample, np.ndarray]]) -> Iterator[pa.RecordBatch]:
    rows = iter(embedded)
    while some := list(islice(rows, ROWS_AT_ONCE)):
        vectors = np.stack([vector for _, vector in some])
        values = [json.dumps(_plain(sample.values), ensure_ascii=False, default=str) for sample, _ in some]
        columns = {
            "row": pa.array([sample.row for sample, _ in some], pa.int64()),
            "values": pa.array(values, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
        }
        yield pa.RecordBatch.from_pydict(columns)


def _plain(value: Any) -> Any:
    """What JSON can say of a value: no bytes of media, no numbers that are none."""
    if isinstance(value, Mapping):
        return {_plain(str(name)): _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a character, in what no modality reads
    return None if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)) else value


def _model_hash(predictor: Predictor) -> str:
    return file_hash(predictor.folder / MANIFEST)


def _lancedb() -> Any:
    try:
        import lancedb
    except ImportError:
        raise UsageError(f"an index needs LanceDB; {how_to_install('search')}") from None
    return lancedb
