"""Rows are prepared once, as long as there is room for them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from fusebert.data import dataset
from fusebert.data.collate import Example
from fusebert.data.dataset import Dataset, Kept, Preparer, check
from fusebert.errors import RowError
from fusebert.types import Sample


class Counting(Preparer):
    """Makes a hundred bytes of each row, and remembers which it made."""

    def __init__(self) -> None:
        super().__init__({})
        self.made: list[int] = []

    def __call__(self, sample: Sample) -> Example | RowError:
        self.made.append(sample.row)
        return Example({"text": {"input_ids": np.full(100, sample.row, dtype=np.uint8)}}, None, 100)


def rows(preparer: Preparer) -> Dataset:
    return Dataset([Sample(Path("rows"), row, {}, None) for row in range(4)], np.full(4, 100), preparer)


def test_a_row_is_prepared_once() -> None:
    preparer = Counting()
    kept = rows(preparer)
    first = list(kept)
    assert all(again is once for again, once in zip(kept, first, strict=True))
    assert preparer.made == [0, 1, 2, 3]
    assert pickle.loads(pickle.dumps(kept))._kept.get(0) is None  # noqa: S301


def test_rows_that_were_checked_are_kept_and_what_they_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    preparer, kept, picture = Counting(), Kept(), np.zeros(10_000, dtype=np.uint8)
    monkeypatch.setattr(dataset, "KEPT_BYTES", 12_000 + 4 * dataset.EXAMPLE_BYTES)
    good, lengths, bad = check(rows(preparer).samples, preparer, kept)
    assert len(good) == 4
    assert not bad
    list(Dataset(good, lengths, preparer, kept=kept))
    assert preparer.made == [0, 1, 2, 3]
    shared = Kept()
    for number in range(4):
        pictures = np.empty(1, dtype=object)
        pictures[0] = picture
        shared.add(number, Example({"image": {"pixel_values": pictures}}, None, 1))
    assert shared.get(3) is not None


def test_what_has_no_room_is_prepared_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "KEPT_BYTES", 2 * (100 + dataset.EXAMPLE_BYTES))
    preparer = Counting()
    kept = rows(preparer)
    for _ in range(2):
        assert [int(example.features["text"]["input_ids"][0]) for example in kept] == [0, 1, 2, 3]
    assert preparer.made == [0, 1, 2, 3, 2, 3]
