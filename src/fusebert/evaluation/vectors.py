"""Vectors of a matching model, and a file of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from fusebert.data.dataset import Preparer
from fusebert.data.decimals import as_plain
from fusebert.data.tables import Rows
from fusebert.errors import RowError, UsageError
from fusebert.evaluation.inference import in_order, infer
from fusebert.evaluation.predictor import Predictor
from fusebert.evaluation.unfamiliar import Unfamiliar
from fusebert.storage import whole_or_absent
from fusebert.types import Example, Sample

SIDES = ("left", "right")
ROWS_AT_ONCE = 1024
DIGEST_BYTES = 16

Embedded = tuple[Sample | RowError, np.ndarray | RowError]
Content = tuple[np.ndarray, bytes]
"""A side's vector, and the digest of what the model reads of it."""
Item = TypeVar("Item")


def embed(predictor: Predictor, rows: Rows, side: str) -> Iterator[Embedded]:
    """Each row with its vector float32[vector_size] of length 1, or with what is wrong with it, in order.

    Args:
        side: left or right; the columns of the other one are not read.

    Raises:
        UsageError: the model makes no vectors, or has no such side.
    """
    return in_order(rows, _preparer(predictor, side), lambda examples: _vectors(predictor, examples, side))


def embed_new(
    predictor: Predictor, rows: Rows, side: str, known: Callable[[bytes], np.ndarray | None]
) -> Iterator[tuple[Sample | RowError, Content | RowError]]:
    """As `embed`, with digests; a row that the model reads as one that is known has the vector of that one."""

    def contents(examples: list[Example]) -> list[Content]:
        digests = [_digest(example) for example in examples]
        found = [known(digest) for digest in digests]
        new = [example for example, vector in zip(examples, found, strict=True) if vector is None]
        made = iter(_vectors(predictor, new, side) if new else ())
        return [
            (next(made) if vector is None else vector, digest) for vector, digest in zip(found, digests, strict=True)
        ]

    return in_order(rows, _preparer(predictor, side), contents)


def unfamiliar_to(predictor: Predictor, side: str) -> Unfamiliar:
    """What looks at the columns of a side. Raises UsageError as `embed` does."""
    return Unfamiliar(predictor.processors, _columns(predictor, side))


def _preparer(predictor: Predictor, side: str) -> Preparer:
    columns = _columns(predictor, side)
    return Preparer(predictor.processors, sides=[columns if name == side else () for name in SIDES])


def _columns(predictor: Predictor, side: str) -> Sequence[str]:
    columns = side_columns(predictor)
    if side not in columns:
        raise UsageError(f"side={side!r} is neither 'left' nor 'right'")
    return columns[side]


def _vectors(predictor: Predictor, examples: list[Example], side: str) -> np.ndarray:
    both = infer(predictor.model, examples, predictor.collator, predictor.precision)
    return np.split(both, 2, axis=1)[SIDES.index(side)]


def _digest(example: Example) -> bytes:
    found = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name, features in (pair for part in example.packed() for pair in part.features.items()):
        for field, array in features.items():
            arrays = list(array) if array.dtype == object else [array]
            found.update(repr([name, field, [(one.dtype.str, one.shape) for one in arrays]]).encode())
            for one in arrays:
                found.update(one.tobytes())
    return found.digest()


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
    batches = map(_batch, chunks(embedded))
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


def chunks(items: Iterable[Item], most: int | None = None) -> Iterator[list[Item]]:
    """Runs of so many, ROWS_AT_ONCE by default."""
    left = iter(items)
    while some := list(islice(left, most or ROWS_AT_ONCE)):
        yield some


def _batch(rows: Sequence[tuple[Sample, np.ndarray]]) -> pa.RecordBatch:
    columns = {
        "row": pa.array([sample.row for sample, _ in rows], pa.int64()),
        "values": pa.array([values_as_json(sample) for sample, _ in rows], pa.string()),
        "vector": vector_array(np.stack([vector for _, vector in rows])),
    }
    return pa.RecordBatch.from_pydict(columns)


def values_as_json(sample: Sample) -> str:
    """A row's values, without the bytes of media."""
    return json.dumps(_plain(sample.values), ensure_ascii=False, allow_nan=False, default=str)


def vector_array(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """Arrow's form of float32[B, vector_size]."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1])


def _plain(value: Any) -> Any:
    """What JSON can say of a value: no bytes of media, no numbers that are none."""
    if hasattr(value, "tobytes") and not isinstance(value, np.generic):  # an array, or Pillow's picture
        return None
    if isinstance(value, Mapping):
        if {"array", "sampling_rate"} <= value.keys():
            value = {**value, "array": None}
        return {_plain(str(name)): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):  # a map of parquet is a list of pairs
        return [_plain(one) for one in value]
    value = as_plain(value)
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a character, in what no modality reads
    return None if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)) else value
