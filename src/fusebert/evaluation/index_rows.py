"""What an index on disk holds, read into memory, and its rows by key, by content and by the values that they have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from fusebert.errors import ModelError
from fusebert.evaluation.lance_manifest import refuse_other_places
from fusebert.evaluation.predictor import Predictor
from fusebert.evaluation.vectors import DIGEST_BYTES, ROWS_AT_ONCE, SIDES, vector_array
from fusebert.evaluation.where import Condition, allowed, read_conditions
from fusebert.storage import MANIFEST, file_hash, read_json, verify

ABOUT, STORE, TABLE = "index.json", "store", "rows"


def schema(vector_size: int) -> pa.Schema:
    """Columns of the table: the row's number in the table that it came from, its key where the index has keys, its
    values as JSON, the digest of what the model reads, and the vector of that."""
    columns = {
        "row": pa.int64(),
        "key": pa.string(),
        "values": pa.string(),
        "content": pa.binary(DIGEST_BYTES),
        "vector": pa.list_(pa.float32(), vector_size),
    }
    return pa.schema(list(columns.items()))


@dataclass(frozen=True)
class IndexRows:
    """Rows as they were on disk.

    Args:
        folder: for messages.
        side: left or right.
        key: the column that names a row; None where rows have no names.
        columns: that rows have.
        unclear: those of them with numbers of which nobody knows whether they are fractions or thousands.
        table: all but the vectors.
        vectors: float32[N, vector_size].
    """

    folder: Path
    side: str
    key: str | None
    columns: Sequence[str]
    unclear: Sequence[str]
    table: pa.Table
    vectors: np.ndarray
    _by_column: dict[str, tuple[list[Any], np.ndarray]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.vectors)

    def found(self, place: int, similarity: float) -> dict[str, Any]:
        """A row as an answer has it."""
        name = "row" if self.key is None else "key"
        own = {name: self.table[name][place].as_py(), "values": self._parsed(self.table["values"][place].as_py())}
        return own | {"similarity": similarity}

    @cached_property
    def by_key(self) -> dict[str, int]:
        """The place of each key."""
        return {key: place for place, key in enumerate(self.table["key"].to_pylist())}

    @cached_property
    def _by_content(self) -> dict[bytes, int]:
        return {digest: place for place, digest in enumerate(self.table["content"].to_pylist())}

    def known(self, digest: bytes) -> np.ndarray | None:
        """The vector of what has that digest."""
        place = self._by_content.get(digest)
        return None if place is None else np.asarray(self.vectors[place])

    def batches(self, places: np.ndarray) -> Iterator[pa.RecordBatch]:
        """Rows as they are written."""
        for start in range(0, len(places), ROWS_AT_ONCE):
            some = places[start : start + ROWS_AT_ONCE]
            columns = [column.combine_chunks() for column in self.table.take(pa.array(some)).columns]
            yield pa.RecordBatch.from_arrays(
                [*columns, vector_array(self.vectors[some])], schema=schema(self.vectors.shape[1])
            )

    def matching(self, where: str | Sequence[str]) -> np.ndarray | None:
        """int64[M], places of the rows for which all conditions hold; None for all rows. Raises UsageError."""
        conditions = read_conditions(where, self.columns, self.unclear)
        if not conditions:
            return None
        self._look_at({condition.column for condition in conditions} - self._by_column.keys())
        matches = np.ones(len(self), dtype=bool)
        equal: dict[str, np.ndarray] = {}
        for condition in conditions:
            holds = self._holds(condition)
            if condition.sign == "=":
                equal[condition.column] = equal.get(condition.column, False) | holds
            else:
                matches &= holds
        for holds in equal.values():
            matches &= holds
        return np.flatnonzero(matches)

    def _holds(self, condition: Condition) -> np.ndarray:
        values, numbers = self._by_column[condition.column]
        return np.take(np.array(allowed(condition, values), dtype=bool), numbers)

    def _look_at(self, columns: set[str]) -> None:
        """Note the different values of columns, and which of them each row has."""
        if not columns:
            return
        seen: dict[str, dict[str, int]] = {column: {} for column in columns}
        values: dict[str, list[Any]] = {column: [] for column in columns}
        numbers = {column: np.empty(len(self), dtype=np.int32) for column in columns}
        for place, text in enumerate(self.table["values"].to_pylist()):
            row = self._parsed(text)
            for column in columns:
                value = row.get(column)
                number = seen[column].setdefault(repr(value), len(values[column]))
                if number == len(values[column]):
                    values[column].append(value)
                numbers[column][place] = number
        self._by_column.update({column: (values[column], numbers[column]) for column in columns})

    def _parsed(self, text: str) -> dict[str, Any]:
        try:
            found = json.loads(text, parse_constant=_refuse)
        except (TypeError, ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _damaged(self.folder)
        return found


def read_rows(folder: Path, predictor: Predictor, connect: Callable[[Path], Any]) -> IndexRows:
    """Check an index, and read it.

    Args:
        predictor: the model that has to have made it.
        connect: LanceDB's.

    Raises:
        ModelError: it is damaged, names files elsewhere, or another model made it.
    """
    verify(folder)
    refuse_other_places(folder / STORE)
    about = read_json(folder / ABOUT)
    if not _is_told(about):
        raise ModelError(f"{folder / ABOUT} is damaged; index the table again")
    if about["model"] != model_hash(predictor):
        raise ModelError(f"{folder} was made by another model than {predictor.folder}; index the table again")
    vector_size = int(predictor.model.config.task["vector_size"])
    wanted = schema(vector_size)
    try:
        table = connect(folder / STORE).open_table(TABLE)
        if table.schema != wanted:
            raise _damaged(folder)
        vectors, batches, count = np.empty((table.count_rows(), vector_size), dtype=np.float32), [], 0
        for batch in table.search().select(wanted.names).to_batches():
            if any(batch[name].null_count for name in wanted.names if name != "key" or about["key"] is not None):
                raise _damaged(folder)
            some = batch["vector"].flatten().to_numpy().reshape(-1, vector_size)
            vectors[count : count + len(batch)] = some
            count += len(batch)
            words = batch.select(wanted.names[:-1])
            batches.append(words.take(pa.array(range(len(words)))))  # a copy, as the batch holds its vectors, too
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{folder} cannot be opened: {' '.join(str(error).split())[:200]}") from None
    if not count or count < len(vectors) or not np.isfinite(vectors).all():
        raise _damaged(folder)
    held = pa.Table.from_batches(batches)
    return IndexRows(folder, about["side"], about["key"], about["columns"], about.get("unclear", []), held, vectors)


def model_hash(predictor: Predictor) -> str:
    """What binds an index to its model."""
    return file_hash(predictor.folder / MANIFEST)


def _is_told(about: Any) -> bool:
    if not isinstance(about, dict) or not {"model", "side", "key", "columns"} <= about.keys():
        return False
    columns, unclear = about["columns"], about.get("unclear", [])  # which older indexes do not tell
    is_names = isinstance(columns, list) and isinstance(unclear, list)
    is_key = about["key"] is None or isinstance(about["key"], str)
    return about["side"] in SIDES and is_key and is_names and all(isinstance(one, str) for one in columns + unclear)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _damaged(folder: Path) -> ModelError:
    return ModelError(f"{folder} holds what no index does; index the table again")
