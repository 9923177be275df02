"""A list of numbers, such as an embedding made elsewhere -> float32[size] of length one; in csv it is JSON text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field

from fusebert.errors import DataError, InputError
from fusebert.modalities.base import Collated, present
from fusebert.modalities.values import as_list, as_number
from fusebert.section import FITTED, Section
from fusebert.storage import read_json, write_json
from fusebert.types import Evidence, Features, Sample


class Config(Section):
    """Where vectors point is what counts; how long they are does not."""

    size: int = Field(0, ge=0, json_schema_extra=FITTED, description="numbers in a vector")


class Processor:
    """Reads all vector columns of a row; they have one size, that of most vectors in the training rows."""

    def __init__(self, config: Config, columns: Sequence[str]) -> None:
        self.config, self.columns = config, tuple(columns)

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        cells = (as_list(sample.values.get(name)) for sample in samples for name in columns)
        sizes = Counter(len(cell) for cell in cells if cell)
        if not sizes:
            raise DataError(f"no training row has a list of numbers in {' or '.join(columns)}")
        return cls(config.model_copy(update={"size": sizes.most_common(1)[0][0]}), columns)

    def load(self, sample: Sample) -> Features | None:
        """`values` float32[K, size] and `place` int64[K], of the K columns that have a vector."""
        given = present(sample.values, self.columns)
        if not given:
            return None
        return {"values": np.stack([self._read(raw) for _, raw in given]), "place": np.array([at for at, _ in given])}

    def _read(self, raw: Any) -> np.ndarray:
        cell = as_list(raw)
        if cell is None:
            raise InputError(f"{raw!r:.60} is not a list of numbers such as [0.5, -1.25]")
        if len(cell) != self.config.size:
            raise InputError(f"the list has {len(cell)} numbers, but those of the training rows {self.config.size}")
        vector = np.array([as_number(one) for one in cell])  # refuses nan, inf and words
        return (vector / max(np.linalg.norm(vector), 1e-12)).astype(np.float32)

    def length(self, features: Features) -> int:
        return len(features["place"])  # a token a vector

    def collate(self, rows: Sequence[Features]) -> Collated:
        return {name: np.concatenate([row[name] for row in rows]) for name in ("values", "place")}

    def save(self, folder: Path) -> None:
        saved = {"config": self.config.model_dump(), "columns": self.columns}
        write_json(folder / "processors" / "vector.json", saved)

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "vector.json")
        return cls(Config(**saved["config"]), saved["columns"])


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of lists of numbers, nearly all of one size."""
    cells = [cell for value in values if (cell := as_list(value)) and all(isinstance(n, int | float) for n in cell)]
    size, count = Counter(map(len, cells)).most_common(1)[0] if cells else (0, 0)
    return Evidence(f"lists of {size} numbers", 0.95) if count > 0.9 * len(values) else None
