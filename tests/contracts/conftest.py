"""Rows that have something for every modality."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.types import Sample


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Rows of a toy world with a recording and a history each."""
    folder = tmp_path_factory.mktemp("sounding") / "world"
    world = write_toyworld(folder, pictures={"train": 24, "val": 8, "test": 8}, sounds=True)
    chance = Random(0)
    rows = [row for row in read_table(world / "train.jsonl") if isinstance(row, Sample)]
    return [replace(row, values={**row.values, "history": _history(chance)}) for row in rows]


def _history(chance: Random) -> list[dict[str, object]]:
    kinds = ["click", "buy"]
    return [
        {"item": chance.randrange(9), "type": chance.choice(kinds), "time": 60 * minute, "value": chance.random()}
        for minute in range(chance.randint(1, 6))
    ]
