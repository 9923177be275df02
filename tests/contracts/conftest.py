"""Rows that have something for every modality."""

from __future__ import annotations

import pytest

from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.types import Sample


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Rows of a toy world with a recording each."""
    folder = tmp_path_factory.mktemp("sounding") / "world"
    world = write_toyworld(folder, pictures={"train": 24, "val": 8, "test": 8}, sounds=True)
    return [row for row in read_table(world / "train.jsonl") if isinstance(row, Sample)]
