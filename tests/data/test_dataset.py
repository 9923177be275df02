"""Rows are prepared once, as long as there is room for them."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fusebert.data import dataset
from fusebert.data.dataset import Dataset, ExampleCache, Preparer, check
from fusebert.errors import InputError, RowError
from fusebert.evaluation.inference import example_bytes
from fusebert.types import Example, Features, Sample


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
    preparer, kept, picture = Counting(), ExampleCache(), np.zeros(10_000, dtype=np.uint8)
    monkeypatch.setattr(dataset, "KEPT_BYTES", 12_000 + 4 * dataset.EXAMPLE_BYTES)
    good, lengths, bad = check(rows(preparer).samples, preparer, kept)
    assert len(good) == 4
    assert not bad
    list(Dataset(good, lengths, preparer, kept=kept))
    assert preparer.made == [0, 1, 2, 3]
    shared = ExampleCache()
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


def test_targets_take_room_too() -> None:
    """Of ten thousand labels, more than a row's text does."""
    kept = ExampleCache(4 * 40_000)
    for number in range(10):
        kept.add(number, Example({}, np.zeros(10_000, np.float32), 1))
    assert [kept.get(number) is None for number in range(10)] == [False] * 4 + [True] * 6
    assert example_bytes(Example({}, np.zeros(10_000, np.float32), 1)) == 40_000


class Sided:
    """The part of a task that reads the sides of a row apart."""

    def target(self, _: Any) -> Any:
        return None


class Stretching:
    """A modality whose rows have as many tokens as they have values, and may be given more."""

    columns = ("sound",)
    varies = True

    def load(self, sample: Sample) -> Features:
        return {"values": np.full(4, sample.row)}

    def vary(self, features: Features, random: np.random.Generator) -> Features:
        return {"values": np.tile(features["values"], random.integers(1, 100))}

    def length(self, features: Features) -> int:
        return len(features["values"])


@pytest.mark.parametrize("sides", [(), (("sound",), ("sound",))], ids=["whole", "apart"])
def test_rows_to_learn_from_vary_by_epoch_and_number_alone(sides: tuple[tuple[str, ...], ...]) -> None:
    preparer: Any = Preparer({"sound": cast("Any", Stretching())}, sides=sides)
    if sides:
        preparer.task = Sided()
    samples = [Sample(Path("rows"), row, {"sound": row}, None) for row in range(8)]

    def lengths(epoch: int, varied: bool = True) -> list[int]:
        found = Dataset(samples, np.full(8, 5), preparer, seed=3, varied=varied)
        found.epoch = epoch
        assert all(len(one.sides) == len(sides) for one in found)
        return [example.length for example in reversed([found[number] for number in reversed(range(8))])]

    assert lengths(0) == lengths(0)
    assert lengths(0) != lengths(1)
    assert len(set(lengths(0))) > 4
    assert lengths(0, varied=False) == [5 * max(1, len(sides))] * 8


class Wide:
    """A modality of many columns that counts how often it is asked; some values are bad together only."""

    columns = tuple(f"c{number}" for number in range(1200))

    def __init__(self) -> None:
        self.loads = 0

    def load(self, sample: Sample) -> Features:
        self.loads += 1
        given = [value for value in sample.values.values() if value is not None]
        if "bad" in given or given.count("half") > 1:
            raise InputError("cannot be read")
        return {"values": np.array(given)}

    def length(self, features: Features) -> int:
        return len(features["values"])


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"c0": "bad"}, "c0"),
        ({"c1199": "bad"}, "c1199"),
        ({"c700": "bad", "c701": "bad", "c1000": "bad"}, "c700"),
        ({"c3": "half", "c4": "half", "c900": "bad"}, "c900"),
        ({"c3": "half", "c900": "half"}, ", ".join(Wide.columns)),
    ],
)
def test_the_first_column_that_is_bad_by_itself_is_named(values: dict[str, str], named: str) -> None:
    found = Preparer({"wide": cast("Any", Wide())})(Sample(Path("rows"), 1, values, None))
    assert isinstance(found, RowError)
    assert found.column == named


def test_a_bad_value_among_many_columns_is_found_in_few_tries() -> None:
    wide = Wide()
    Preparer({"wide": cast("Any", wide)})(Sample(Path("rows"), 1, {"c800": "bad"}, None))
    assert wide.loads <= 2 + math.ceil(math.log2(len(Wide.columns)))


def test_a_row_may_lose_more_values_than_python_nests_calls() -> None:
    lost: dataset.Lost = {}
    values = dict.fromkeys(Wide.columns, "bad") | {"c7": "good"}
    found = Preparer({"wide": cast("Any", Wide())}, lost=lost)(Sample(Path("rows"), 1, values, None))
    assert isinstance(found, Example)
    assert found.features["wide"]["values"].tolist() == ["good"]
    assert list(lost["rows", 1]) == [column for column in Wide.columns if column != "c7"]


def test_a_row_that_cannot_be_used_loses_nothing() -> None:
    lost: dataset.Lost = {}
    for values in ({"c0": "good", "c3": "bad"}, {"c0": "half", "c1": "half", "c3": "bad"}):
        preparer = Preparer({"wide": cast("Any", Wide())}, cast("Any", Sided()), "target", lost=lost)
        assert isinstance(preparer(Sample(Path("rows"), 1, values, None)), RowError)
        assert not lost
