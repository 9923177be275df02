"""The Parquet shards of a corpus folder: written a row group at a time, read back the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from fusebert.errors import DataError, ModelError
from fusebert.storage import CORPUS_REPORT, read_json, write_atomically

if TYPE_CHECKING:
    from fusebert.corpus.process import Processed

REPORT = CORPUS_REPORT
SCHEMA = pa.schema([("id", pa.string()), ("language", pa.string()), ("sentences", pa.list_(pa.string()))])
COUNTED = ("counts", "languages", "shards")
LEAST_DOCUMENTS = 2
"""In each part, to pre-train: a pair that is not next takes its second half from another document."""
GROUP_BYTES, GROUP_DOCUMENTS = 2**21, 2**12
"""What a row group holds before it is compressed, so that neither side has more of a shard as text in memory."""


class ShardWriter:
    """One shard, of a part, compressed in memory; it is a file once `close` has been called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Processed] = []
        self.bytes = 0
        self._sink = pa.BufferOutputStream()
        self._writer = parquet.ParquetWriter(self._sink, SCHEMA, compression="zstd")

    def add(self, row: Processed) -> None:
        self.rows.append(row)
        self.bytes += len(row.text)
        if self.bytes >= GROUP_BYTES or len(self.rows) >= GROUP_DOCUMENTS:
            self._compress()

    def close(self) -> None:
        """The file is whole, durable and in its place when this returns."""
        self._compress()
        self._writer.close()
        write_atomically(self.path, self._sink.getvalue())
        pa.default_memory_pool().release_unused()  # which arrow keeps for itself, more with each shard

    def _compress(self) -> None:
        columns = {
            "id": [f"{row.source}:{row.row}:{row.piece}" for row in self.rows],
            "language": [row.language for row in self.rows],
            "sentences": [row.text.decode().split("\n") for row in self.rows],
        }
        if self.rows:
            self._writer.write_table(pa.table(columns, schema=SCHEMA))
        self.rows, self.bytes = [], 0


def shard_paths(folder: Path, part: str, count: int) -> list[Path]:
    """The first `count` shards of a part."""
    return [folder / f"{part}-{number:05d}.parquet" for number in range(count)]


def corpus_report(folder: Path) -> dict[str, Any]:
    """The statistics of a finished corpus. Raises DataError where there is none."""
    try:
        found = read_json(folder / REPORT)
    except ModelError as error:
        raise DataError(f"{folder} is no finished corpus ({error}); make one with `fusebert corpus prepare`") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), dict) for name in COUNTED):
        raise DataError(f"{folder / REPORT} is damaged: it lacks {', '.join(COUNTED)}; prepare the corpus again")
    return found


def read_shards(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    """Documents `{"id", "language", "sentences"}` of a part (train, held_out), one row group in memory at a time.

    Raises:
        DataError: one of the shards that the report counts is missing or damaged.
    """
    for path in shard_paths(folder, part, corpus_report(folder)["shards"].get(part, 0)):
        try:
            with parquet.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield from file.read_row_group(group, use_threads=False).to_pylist()
        except FileNotFoundError:
            raise DataError(f"{path} is missing; copy the whole folder again, or prepare it again") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from None
