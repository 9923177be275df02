"""What a corpus folder holds, read back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from fusebert.corpus.prepare import REPORT
from fusebert.errors import DataError, ModelError
from fusebert.storage import read_json

DOCUMENTS_AT_ONCE = 256


def corpus_report(folder: Path) -> dict[str, Any]:
    """The statistics of a finished corpus. Raises DataError where there is none."""
    try:
        return dict(read_json(folder / REPORT))
    except ModelError as error:
        raise DataError(f"{folder} is no finished corpus ({error}); make one with `fusebert corpus prepare`") from None


def read_shards(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    """Documents `{"id", "language", "sentences"}` of a part (train, held_out), a few hundred in memory at a time."""
    for path in sorted(folder.glob(f"{part}-*.parquet")):
        try:
            for batch in parquet.ParquetFile(path).iter_batches(batch_size=DOCUMENTS_AT_ONCE):
                yield from batch.to_pylist()
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from None
