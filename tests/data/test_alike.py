"""The same rows mean the same, however they come: csv, jsonl, parquet, or from memory."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from fusebert.data.columns import guess_column
from fusebert.data.dataset import Preparer
from fusebert.data.rows import rows_from_memory
from fusebert.data.tables import read_table
from fusebert.errors import DataError, RowError
from fusebert.modalities.events.processor import Config as EventsConfig
from fusebert.modalities.events.processor import Processor as Events
from fusebert.modalities.image.processor import Config as ImageConfig
from fusebert.modalities.image.processor import Processor as Images
from fusebert.modalities.table.columns import fit_column
from fusebert.modalities.text.processor import Config as TextConfig
from fusebert.modalities.text.processor import Processor as Texts
from fusebert.modalities.values import as_category, as_date, is_moment
from fusebert.tasks.classification.task import Config, Task
from fusebert.types import Sample


def sample(**values: Any) -> Sample:
    return Sample(Path("rows.jsonl"), 1, values, Path())


def values_of(rows: Any) -> list[dict[str, Any]]:
    return [dict(row.values) for row in rows if isinstance(row, Sample)]


@pytest.mark.parametrize("written", [2, 2.0, "2", "2.0", " 2.00 "])
def test_a_whole_number_is_one_name_however_it_is_written(written: Any) -> None:
    assert as_category(written) == "2"
    column = fit_column(["1.0", "2.0", "1.0"], 4, 9, as_categories=True)
    assert column.is_known(written)


@pytest.mark.parametrize("labels", [["0.0", "1.0", "2.0"], [0, 1, 2], ["0", "1", "2"]])
def test_labels_that_pandas_wrote_as_fractions_are_known(labels: list[Any]) -> None:
    task = Task.fit(Config(), labels)
    for other in ([0.0, 1.0, 2.0], ["0", "1", "2"], ["0.0", "1.0", "2.0"]):
        assert [int(task.target(label)) for label in other] == [0, 1, 2]


def test_a_point_in_the_name_of_a_nested_column_is_a_letter(tmp_path: Path) -> None:
    lists, pairs = [["a b", "c"]] * 3, [{"b.c": "x"}] * 3
    table = pyarrow.table({"meta.tags": lists, "meta": pairs, "x.y": ["a"] * 3, "x": [1.5, math.nan, None]})
    parquet.write_table(table, tmp_path / "x.parquet")
    rows = values_of(read_table(tmp_path / "x.parquet"))
    assert rows[0] == {"meta.tags": ["a b", "c"], "meta": {"b.c": "x"}, "x.y": "a", "x": 1.5}
    assert [row["x"] for row in rows] == [1.5, None, None]


@pytest.mark.parametrize("other", ["some words", "201.66.105.21"])
def test_one_cell_among_others_does_not_say_how_numbers_are_written(other: str, tmp_path: Path) -> None:
    cells = [f"{'12,5' if number == 7 else other};3.{100 + number}" for number in range(60)]
    (tmp_path / "x.csv").write_text("note;price\n" + "\n".join(cells) + "\n")
    price = values_of(read_table(tmp_path / "x.csv"))[0]["price"]
    with pytest.raises(ValueError, match="a fraction or thousands"):
        float(price)


@pytest.mark.parametrize("divider", [",", ";", "\t"])
def test_blank_lines_before_the_header_are_passed_over(divider: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.tsv" if divider == "\t" else "x.csv")
    path.write_text(f"\n\n a{divider}b\n1{divider}2\n")
    (row,) = read_table(path)
    assert isinstance(row, Sample)
    assert ({**row.values}, row.row, row.line) == ({" a": "1", "b": "2"}, 1, 4)


def test_decimals_are_numbers_from_memory_too() -> None:
    rows = pyarrow.table({"p": pyarrow.array([Decimal("1.25")], pyarrow.decimal128(10, 2)), "y": [{"q": Decimal(2)}]})
    ((_, price), (_, pair)) = values_of(rows_from_memory(rows))[0].items()
    assert (price, type(price), pair) == (1.25, float, {"q": 2.0})


def test_what_is_inside_of_lists_and_dicts_from_memory_is_plain() -> None:
    class NaTType:
        """As pandas has it."""

    events = np.array([{"item": np.int64(3), "time": NaTType()}, {"item": np.nan}], dtype=object)
    sound = {"array": np.zeros(3, np.float32), "sampling_rate": 16_000}
    (row,) = values_of(rows_from_memory({"history": events, "sound": sound}))
    assert row["history"] == [{"item": 3, "time": None}, {"item": None}]
    assert row["sound"] is sound


def test_numbers_that_cannot_be_spelled_are_bad_rows() -> None:
    (row,) = rows_from_memory({"x": 10**5000})
    assert isinstance(row, RowError)
    assert "a whole number of more than" in str(row)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["x", "x"])
    with pytest.raises(DataError, match="'x' more than once"):
        list(rows_from_memory(table))


def test_a_list_of_texts_is_read_alike_from_a_csv() -> None:
    reader = Texts.fit(TextConfig(), ["turns"], [sample(turns=["hello there", "who is there"])] * 3, None)
    listed, spelled = (reader.load(sample(turns=turns)) for turns in (["hello", "who"], '["hello", "wh\\u006f"]'))
    assert listed is not None
    assert spelled is not None
    np.testing.assert_array_equal(listed["input_ids"], spelled["input_ids"])
    for nothing in ([], [""], '["", " "]'):
        assert reader.load(sample(turns=nothing)) is None


def test_a_file_of_nothing_is_missing_and_a_picture_of_nothing_is_bad() -> None:
    reader = Images(ImageConfig(), ["image"])
    prepare = Preparer({"image": reader})
    assert reader.load(sample(image={"bytes": None, "path": None})) is None
    for bad in ({"path": "\ud800.png", "bytes": None}, {"bytes": b"", "path": None}, Image.new("RGB", (0, 5))):
        assert isinstance(prepare(sample(image=bad)), RowError)


def test_histories_can_be_matched() -> None:
    rows = [sample(h=[{"item": name}], t="red dog") for name in "abc"]
    readers = {
        "events": Events.fit(EventsConfig(), ["h"], rows, None),
        "text": Texts.fit(TextConfig(), ["t"], rows, None),
    }
    made = Preparer(readers, sides=[["h"], ["t"]])
    assert made._content("h", rows[0], "h") == [{"item": "a"}]


def test_only_whole_labels_are_read_as_numbers() -> None:
    task = Task.fit(Config(unseen_labels="wrong"), ["size 25", "10.1", "v3"])
    assert [int(task.target(label)) for label in ("size 2.05", "10.0.1", "v3.0")] == [-1, -1, -1]


def test_long_numbers_are_inputs_and_telephones_are_not() -> None:
    random = np.random.default_rng(0)
    columns = {
        "sum": [10**11 + int(number) for number in random.integers(10**10, size=100)],
        "nanoseconds": [1_700_000_000 * 10**9 + n for n in range(100)],
        "telephone": [13_800_000_000 + n for n in range(100)],
    }
    kinds = {
        name: guess_column(name, [sample(**{name: value}) for value in values]).kind for name, values in columns.items()
    }
    assert kinds == {"sum": "table", "nanoseconds": "table", "telephone": "ignore"}


@pytest.mark.parametrize("written", [20240105150000, "20240105150000", 20240105150000.0, "20240105150000.0"])
def test_a_moment_in_digits_is_one_however_it_is_held(written: Any) -> None:
    assert is_moment(written)
    assert as_date(written) == datetime(2024, 1, 5, 15, tzinfo=UTC)


def test_a_streamed_dataset_is_rows() -> None:
    rows = datasets.IterableDataset.from_generator(lambda: ({"x": n} for n in range(3)))
    assert values_of(rows_from_memory(rows)) == [{"x": 0}, {"x": 1}, {"x": 2}]


def test_a_film_behind_a_photo_is_not_its_scans() -> None:
    photo = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(photo, "JPEG")
    film = np.random.default_rng(0).bytes(8 << 20)
    assert Images(ImageConfig(), ["image"]).load(sample(image=photo.getvalue() + film)) is not None
