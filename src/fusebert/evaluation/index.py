"""An index on disk (LanceDB): rows with the vectors of one side. It can change, and finds the nearest."""

from __future__ import annotations

import fcntl
import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fusebert.data.rows import rows_from_memory, rows_of
from fusebert.data.tables import Rows
from fusebert.errors import DataError, ModelError, RowError, UsageError, how_to_install
from fusebert.evaluation.incoming import Incoming, OnBad, key_of, refuse, usable
from fusebert.evaluation.index_rows import ABOUT, STORE, TABLE, IndexRows, model_hash, read_rows
from fusebert.evaluation.nearest import nearest
from fusebert.evaluation.predictor import Predictor
from fusebert.evaluation.vectors import SIDES, chunks, embed, embed_new, side_columns, unfamiliar_to
from fusebert.storage import MANIFEST, file_hash, mend_left_by_kills, refuse_in_finished, write_folder, write_json
from fusebert.types import Sample, is_given

MOST_FOUND = 1000
QUERIES_AT_ONCE = 1024
READINGS = 5
"""Of an index that others replace while it is read."""

Found = list[dict[str, Any]]
"""Rows, most similar first: `row` or `key`, `values`, `similarity`."""


def write_index(
    predictor: Predictor, folder: Path, rows: Rows, side: str, key: str | None = None, on_bad: OnBad = refuse
) -> int:
    """A folder that `Index` searches, which needs no server; how many rows it holds.

    It is there once it is whole, and is bound to the model that made its vectors.

    Args:
        key: the column that names a row, for an index that can change.

    Raises:
        UsageError: LanceDB is not installed, `folder` exists, or there is no row.
        DataError: there is no room for it.
        RowError: from `on_bad`.
    """
    lancedb()
    if folder.exists():
        raise UsageError(f"{folder} exists already; choose another --output, or --update it")
    refuse_in_finished(folder)
    incoming = Incoming(key)
    new = embed_new(predictor, incoming.checked(rows), side, lambda _: None)
    return _write(predictor, folder, side, incoming, incoming.batches(usable(new, on_bad)))


class Index:
    """An index on disk, opened with the model that made it. It is read into memory, again whenever it has changed."""

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        """Raises ModelError where it is damaged, names files elsewhere, or another model made it."""
        lancedb()
        self.predictor, self.folder, self._seal = predictor, folder.resolve(), ""
        self._refresh()

    def __len__(self) -> int:
        self._refresh()
        return len(self._rows)

    @property
    def key(self) -> str | None:
        """The column that names a row; None where the index cannot change."""
        return self._rows.key

    def find(self, rows: Any, top: int = 10, where: str | Sequence[str] = ()) -> Any:
        """The indexed rows most similar to one, most similar first, each as `row` (its number in its table) or `key`,
        `values` and `similarity`. All are compared, so none is missed.

        Args:
            rows: a dict, with values of one side, whichever it is; or several, as `predict` takes them.
            top: how many, at most 1000.
            where: conditions that a row has to meet, such as "price<50"; all of them, but of several `=` for one
                column any one.

        Returns:
            A list of dicts for one dict, else a list of such lists.

        Raises:
            UsageError: a condition is none, or names a column that no row has.
            RowError: a row cannot be read.

        Warns of columns as `Predictor.predict` does.
        """
        asked, side = self.asked(rows)
        unfamiliar, found = unfamiliar_to(self.predictor, side), []
        for _, answer in self.answers(unfamiliar.watch(asked), top, where, side):
            if isinstance(answer, RowError):
                raise answer
            found.append(answer)
        unfamiliar.warn(rows)
        return found[0] if isinstance(rows, Mapping) else found

    def asked(self, rows: Any) -> tuple[Rows, str]:
        """The rows, and the side that they ask with. Rows with both sides ask with the one that is not indexed."""
        self._refresh()
        if isinstance(rows, Mapping):
            return rows_from_memory(rows), self._side_of_one(rows)
        return self._with_side(rows_of(rows), self._rows.side)

    def answers(
        self, rows: Any, top: int = 10, where: str | Sequence[str] = (), side: str | None = None
    ) -> Iterator[tuple[Sample | RowError, Found | RowError]]:
        """Each row with what `find` finds, or with what is wrong with it, in order and in constant memory.

        Args:
            side: that the rows ask with; None for that of `asked`.
        """
        if not isinstance(top, int) or isinstance(top, bool) or not 1 <= top <= MOST_FOUND:
            raise UsageError(f"top={top!r} will not do: a whole number from 1 to {MOST_FOUND}")
        self._refresh()
        held = self._rows
        places = held.matching(where)
        rows, side = self.asked(rows) if side is None else (rows_of(rows), side)
        return self._answers(rows, side, held, places, top)

    def matching(self, where: str | Sequence[str]) -> int:
        """How many rows meet the conditions."""
        self._refresh()
        places = self._rows.matching(where)
        return len(self._rows) if places is None else len(places)

    def update(
        self, rows: Any = (), remove: Iterable[Any] = (), remove_others: bool = False, on_bad: OnBad = refuse
    ) -> dict[str, Any]:
        """Add rows, put them in the place of those that have the same key, and remove others, all at once: whoever
        looks, or a kill, finds the rows as they were or as they are then.

        What the model reads as it read another row has the vector of that one; nothing else is read again.

        Args:
            rows: as `predict` takes them.
            remove: keys of rows to be removed.
            remove_others: remove all whose key none of `rows` has.
            on_bad: is told what is wrong with a row, which is then left out; what has its key stays.

        Returns:
            How many `rows` there are now, how many were `added`, `replaced` and `removed`, how many the model read
            (`embedded`), and how many keys in `remove` no row had (`unknown`); `absent_columns` and `unknown_columns`
            of `rows`, as `TrainedModel.evaluate` has them.

        Raises:
            UsageError: the index has no keys, none of its rows would be left, or another process changes it.
            RowError: from `on_bad`.
        """
        with _alone(self.folder):
            self._refresh()
            held = self._rows
            if held.key is None:
                raise UsageError(f"{self.folder} was made without --key, so it cannot change; index the table again")
            gone = {key_of(key) for key in ([remove] if isinstance(remove, str | bytes | int | float) else remove)}
            incoming = Incoming(held.key, gone, held)
            unfamiliar = unfamiliar_to(self.predictor, held.side)
            checked = incoming.checked(unfamiliar.watch(rows_of(rows)))
            new = embed_new(self.predictor, checked, held.side, held.known)

            def batches() -> Iterator[pa.RecordBatch]:
                yield from incoming.batches(usable(new, on_bad))
                if remove_others and incoming.unnamed:
                    why = "without its key, who knows whether another row has to go"
                    raise DataError(f"{incoming.unnamed}; {why}: mend it, or name with --remove what goes")
                leave = gone | incoming.written
                stays = incoming.met if remove_others else held.by_key
                kept = [place for key, place in held.by_key.items() if key in stays and key not in leave]
                yield from held.batches(np.array(kept, dtype=np.int64))

            count = _write(self.predictor, self.folder, held.side, incoming, batches())
        replaced = len(incoming.written & held.by_key.keys())
        added = len(incoming.written) - replaced
        counts = {"rows": count, "added": added, "replaced": replaced, "removed": len(held) + added - count}
        counts |= {"embedded": incoming.embedded, "unknown": len(gone - held.by_key.keys())}
        return counts | unfamiliar.columns

    def _answers(
        self, rows: Rows, side: str, held: IndexRows, places: np.ndarray | None, top: int
    ) -> Iterator[tuple[Sample | RowError, Found | RowError]]:
        for some in chunks(embed(self.predictor, rows, side), QUERIES_AT_ONCE):
            queries = [vector for _, vector in some if not isinstance(vector, RowError)]
            nearby = iter(zip(*nearest(np.stack(queries), held.vectors, places, top), strict=True) if queries else ())
            for row, vector in some:
                if isinstance(vector, RowError):
                    yield row, vector
                else:
                    yield row, [held.found(int(place), float(one)) for place, one in zip(*next(nearby), strict=True)]

    def _side_of_one(self, row: Mapping[str, Any]) -> str:
        given = {column for column, value in row.items() if is_given(value)}
        columns = side_columns(self.predictor)
        touched = [side for side in SIDES if given & set(columns[side])]
        if len(touched) != 1:
            both = " or ".join(f"--{' --'.join(columns[side])}" for side in SIDES)
            raise UsageError(f"a query is one side of a row: {both}")
        return touched[0]

    def _with_side(self, rows: Rows, own: str) -> tuple[Rows, str]:
        """The rows, and the side that they ask with, by the columns of the first that can be read.

        Args:
            own: the side that is indexed.
        """
        other = SIDES[1 - SIDES.index(own)]
        looked_at = []
        for row in rows:
            looked_at.append(row)
            if isinstance(row, Sample):
                columns = side_columns(self.predictor)
                asks_with_own = not row.values.keys() & set(columns[other]) and row.values.keys() & set(columns[own])
                return chain(looked_at, rows), own if asks_with_own else other
        return iter(looked_at), other

    def _refresh(self) -> None:
        """Read the index again if it is another than before."""
        for _ in range(READINGS):
            seal = self._current()
            if seal == self._seal:
                return
            try:
                rows = read_rows(self.folder, self.predictor, lancedb().connect)
            except ModelError:
                if self._current() == seal:  # else it was replaced while it was read
                    raise
            else:
                if self._current() == seal:
                    self._rows, self._seal = rows, seal
                    return
        raise ModelError(f"{self.folder} changes faster than it can be read")

    def _current(self) -> str:
        """The hash of its manifest."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            mend_left_by_kills(self.folder.parent, glob.escape(self.folder.name))
        if not manifest.is_file():
            raise ModelError(f"{self.folder} is not an index; make one with `fusebert index`")
        return file_hash(manifest)


def _write(predictor: Predictor, folder: Path, side: str, incoming: Incoming, batches: Iterator[pa.RecordBatch]) -> int:
    """The folder, whole or not at all; how many rows it holds."""
    first = next(batches, None)
    if first is None:
        raise UsageError(f"there are no rows to write to {folder}")
    count = 0
    failed: list[BaseException] = []

    def counted() -> Iterator[pa.RecordBatch]:
        nonlocal count
        try:
            for batch in chain([first], batches):
                count += len(batch)
                yield batch
        except BaseException as error:  # of which the library makes one of its own
            failed.append(error)
            raise

    def fill(beside: Path) -> None:
        try:
            lancedb().connect(beside / STORE).create_table(TABLE, data=counted(), schema=first.schema)
        except RuntimeError as error:
            if failed:
                raise failed[0] from None
            # a full disk, for one
            raise DataError(f"{folder} cannot be written: {' '.join(str(error).split())[:200]}") from None
        about: dict[str, Any] = {"model": model_hash(predictor), "side": side, "key": incoming.key}
        about |= {"columns": sorted(incoming.columns), "unclear": sorted(incoming.unclear)}
        write_json(beside / ABOUT, about)

    write_folder(folder, fill)
    return count


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else changes the folder meanwhile; else raises UsageError. A killed process holds nothing."""
    while True:
        handle = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # a disk that knows no locks
                _lock(handle, folder)
            if os.fstat(handle).st_ino == folder.stat().st_ino:  # else another was just done
                yield
                return
        finally:
            os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"another process changes {folder}; wait for its end") from None


def lancedb() -> Any:
    """The library. Raises UsageError where it is not installed."""
    try:
        import lancedb
    except ImportError:
        raise UsageError(f"an index needs LanceDB; {how_to_install('search')}") from None
    return lancedb
