"""Columns are judged by rows from all over the table, groups are kept together, changed files are read again."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from fusebert.data.columns import guess_column, guess_columns, guess_task
from fusebert.data.decimals import CommaNumber
from fusebert.data.split import hold_out
from fusebert.errors import InputError, UsageError
from fusebert.modalities.image.processor import Config, Processor
from fusebert.modalities.table.columns import ANY, fit_column
from fusebert.modalities.text.processor import Config as TextConfig
from fusebert.modalities.text.processor import Processor as TextProcessor
from fusebert.modalities.values import as_date, as_number, looks_like_number
from fusebert.tasks.classification.task import Config as TaskConfig
from fusebert.tasks.classification.task import Task
from fusebert.types import Sample


def sample(number: int, **values: object) -> Sample:
    return Sample(Path("rows.jsonl"), number, values, None)


def test_a_column_that_begins_late_is_seen() -> None:
    rows = [sample(n, question="what is it") for n in range(1500)] + [sample(1501, question="and this", image="a.png")]
    kinds = {guess.column: guess.kind for guess in guess_columns(rows, None, {})}
    assert kinds == {"question": "text", "image": "image"}


def test_rows_without_a_group_are_groups_of_their_own() -> None:
    rows = [sample(n, image="x.png" if n < 10 else None) for n in range(110)]
    train, held = hold_out(rows, 0.5, "image")
    assert 40 < len(held) < 70
    assert len({row in held for row in rows[:10]}) == 1
    assert len(train) + len(held) == 110


def test_a_changed_picture_is_read_again(tmp_path: Path) -> None:
    processor = Processor(Config(size_pixels=16), ["image"])
    row = sample(1, image=str(tmp_path / "x.png"))
    seen = []
    for colour in ("red", "blue"):
        Image.new("RGB", (20 + len(seen), 20), colour).save(tmp_path / "x.png")
        found = processor.load(row)
        assert found is not None
        seen.append(found["pixel_values"][0][:, 0, 0].tolist())
    assert seen == [[255, 0, 0], [0, 0, 255]]
    assert copy.copy(processor).files is not processor.files


def test_unseen_labels_of_a_list_count_as_missed() -> None:
    task = Task.fit(TaskConfig(unseen_labels="wrong"), [["a"], ["b"], ["a", "b"]])
    targets = np.stack([task.target(raw) for raw in (["a"], ["c"], ["b", "c"])])
    logits = np.array([[9.0, -9.0], [-9.0, -9.0], [-9.0, 9.0]])
    found = task.evaluate(logits, targets)
    assert found["unseen_labels"] == 2
    assert found["metrics"]["accuracy"] == 1 / 3
    assert found["metrics"]["f1_micro"] == 2 * 2 / (2 * 2 + 2)
    assert task.is_right(["b", "a"], ["a", "b"])
    assert not task.is_right(["c"], [])


def test_where_no_label_is_known_there_is_no_loss() -> None:
    task = Task.fit(TaskConfig(unseen_labels="wrong"), ["a", "b"] * 3)
    found = task.evaluate(np.zeros((2, 2)), np.array([task.target("c"), task.target("d")]))
    assert (found["unseen_labels"], found["metrics"]["accuracy"]) == (2, 0.0)
    assert "loss" not in found["metrics"]


def test_texts_of_one_column_are_read_one_after_another() -> None:
    config, rows = TextConfig(vocabulary_size=200), [sample(1, turns=["where is it", "here"], plain="where is it here")]
    processor = TextProcessor.fit(config, ["turns"], rows, None)
    turns, plain = (TextProcessor(config, [name], processor.tokenizer).load(rows[0]) for name in ("turns", "plain"))
    assert turns is not None
    assert plain is not None
    assert turns["input_ids"].tolist() == plain["input_ids"].tolist()
    with pytest.raises(InputError, match="text expected, found dict"):
        processor.load(sample(2, turns=["here", {"a": 1}]))


@pytest.mark.parametrize("names", [["New York", "Los Angeles", "Oslo"], ["北京", "上海", "哈尔滨"]], ids=str)
def test_names_of_a_few_things_are_categories(names: list[str]) -> None:
    """But not as few questions, or sentences of another script."""
    rows = [sample(n, city=names[n % 3], said=["圆是什么颜色？", "有几个图形？"][n % 2]) for n in range(120)]
    city, said = guess_columns(rows, None, {})
    assert (city.kind, city.ambiguous) == ("table", False)
    assert said.kind == "text"


def test_dates_of_another_order_are_called_so() -> None:
    rows = [sample(n, when=f"{n % 28 + 1}/03/2024", question="what is it then") for n in range(60)]
    when, _ = guess_columns(rows, None, {})
    assert when.kind == "ignore"
    assert "look like dates" in when.why


@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "level_0"])
def test_the_numbers_of_a_frames_rows_are_no_input(name: str) -> None:
    """Also where two frames were joined, so that numbers come twice."""
    rows = [sample(n, **{name: n % 40, "x": n * 0.5}) for n in range(80)]
    assert {guess.column: guess.kind for guess in guess_columns(rows, None, {})} == {name: "ignore", "x": "table"}


@pytest.mark.parametrize("written", ["{:,}", "{}.5%", "{} %", "€{}", "{},5", "−{}", "{} kg"])
def test_numbers_that_are_not_read_are_called_so(written: str) -> None:
    values = [written.format(1000 + 7 * n) for n in range(300)]
    assert "look like numbers, of which only those like 1234.5 are read" in guess_task("price", values).why
    few = guess_task("price", [written.format(1020 + n % 9) for n in range(300)])
    assert few.ambiguous
    assert "look like numbers" in few.why
    price = guess_column("price", [sample(n, price=value) for n, value in enumerate(values)])
    assert ("look like numbers" in price.why) == (written != "{} kg")  # that is text


@pytest.mark.parametrize("written", ["{:,}元", "{:.1f}万", "{:.1f}分", "{}克", "{}％", "￥{}", "{}万+", "wide"])
def test_numbers_as_chinese_writes_them_are_called_so(written: str) -> None:
    wide = {ord(digit): ord(digit) + 0xFEE0 for digit in "0123456789."}
    numbers = [f"{n * 7 / 2}".translate(wide) if written == "wide" else written.format(7 * n) for n in range(300)]
    price = guess_column("price", [sample(n, price=value) for n, value in enumerate(numbers)])
    assert price.ambiguous
    assert "look like numbers" in price.why
    assert guess_task("price", numbers).ambiguous
    assert guess_column("said", [sample(n, said=f"{n}元的商品很好") for n in range(300)]).kind == "text"


def test_words_among_numbers_are_named() -> None:
    """A tenth of a column; of a few numbers they are one more category."""
    prices = ["暂无" if n % 10 == 0 else f"{n}.25" for n in range(350)]
    price = guess_column("price", [sample(n, price=value) for n, value in enumerate(prices)])
    assert (price.kind, price.ambiguous) == ("ignore", True)
    assert "35 of 350 are no numbers, such as '暂无'; table.missing='暂无'" in price.why
    days = ["待定" if n % 10 == 0 else f"2024/{n % 12 + 1}/{n % 28 + 1}" for n in range(350)]
    assert "are no dates" in guess_column("day", [sample(n, day=value) for n, value in enumerate(days)]).why
    stars = guess_column("stars", [sample(n, stars="暂无" if n % 10 == 0 else n % 5) for n in range(350)])
    assert (stars.kind, stars.ambiguous) == ("table", False)
    task = guess_task("price", prices)
    assert task.ambiguous
    assert "35 of 350 values are no numbers, such as '暂无'" in task.why


def test_a_number_is_looked_for_in_linear_time() -> None:
    start = perf_counter()
    for text in ("1" + " " * 200_000 + "x", "1" * 200_000, "1," * 100_000, "2024" + "/1" * 100_000):
        assert not looks_like_number(text)
        assert as_date(text) is None
    assert perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("2024/5/31", "2024-05-31T00:00:00"),
        ("2024-5-31", "2024-05-31T00:00:00"),
        ("2024.05.31", "2024-05-31T00:00:00"),
        ("2024年5月31日", "2024-05-31T00:00:00"),
        ("2024/5/31 9:05", "2024-05-31T09:05:00"),
        ("2024年5月31日 10:30:15", "2024-05-31T10:30:15"),
        ("2024-5-31T10:30", "2024-05-31T10:30:00"),
        ("20240531103000", "2024-05-31T10:30:00"),
        ("18990531103000", None),
        ("2024/5-31", None),
        ("31/5/2024", None),
        ("5/6/24", None),
        ("2024/13/1", None),
        ("2024/5/31 25:00", None),
        ("1.2.3", None),
    ],
)
def test_dates_with_the_year_first_are_read(raw: str, wanted: str | None) -> None:
    found = as_date(raw)
    assert (found and found.isoformat()) == (wanted and f"{wanted}+00:00")


@pytest.mark.parametrize(("other", "kind"), [("2023.4.0", "category"), ("2023.4.12.1", "category"), (" ", "date")])
def test_versions_are_told_from_dates_by_those_that_no_date_is(other: str, kind: str) -> None:
    cells = [f"2023.{1 + n % 12}.{1 + n % 28}" for n in range(60)]
    fitted = fit_column([*cells, other], bins=4, max_categories=100, as_categories=False)
    assert fitted.kind == kind
    rows = [sample(n, version=[*cells, other][n % 13 - 1]) for n in range(130)]
    assert ("dates" in guess_column("version", rows).why) == (kind == "date")
    if kind == "category":
        assert fitted.read(other, 16)[0] != ANY
    typing_error = fit_column([*cells, "2023.13.05"], bins=4, max_categories=100, as_categories=False)
    assert typing_error.kind == "date"  # its row is told


def test_columns_of_such_dates_are_dates() -> None:
    for written in ("2024/{}/{}", "2024年{}月{}日", "2024{:02}{:02}093000"):
        rows = [sample(n, when=written.format(n % 12 + 1, n % 28 + 1)) for n in range(60)]
        assert "dates" in guess_column("when", rows).why


@pytest.mark.parametrize("name", ["订单号", "手机号", "编号", "x"])
def test_numbers_of_people_and_orders_are_identifiers(name: str) -> None:
    long = [sample(n, **{name: 13_800_000_000 + 7 * n}) for n in range(60)]
    assert guess_column(name, long).kind == "ignore"
    again = [sample(n, **{name: 13_800_000_000 + n % 30}) for n in range(60)]
    assert guess_column(name, again).kind == "table"
    milliseconds = [sample(n, x=1_700_000_000_000 + n * 977) for n in range(60)]
    assert guess_column("x", milliseconds).kind == "table"


def test_a_script_without_spaces_is_text() -> None:
    rows = [sample(n, said=f"ฉันต้องการคืนสินค้าที่ซื้อเมื่อวานนี้{n}") for n in range(40)]
    assert guess_column("said", rows).kind == "text"


def test_a_label_for_nearly_each_row_is_doubtful() -> None:
    many, few = [f"answer {number}" for number in range(40)], [f"answer {number % 15}" for number in range(40)]
    assert guess_task("answer", many).ambiguous
    assert "40 labels in 40 rows" in str(guess_task("answer", many))
    assert not guess_task("answer", few).ambiguous


def test_a_stray_value_among_numbers_does_not_decide() -> None:
    """But it is a doubt."""
    prices = [f"{n}.5" for n in range(99)]
    for targets, kind in (
        ([*prices, "N/A"], "regression"),
        ([*range(99), float("nan")], "regression"),
        ([*[0, 1] * 30, float("nan")], "classification"),
        ([*prices[:9], "N/A"], "regression"),
        ([*prices, "much"], "regression"),
    ):
        guess = guess_task("y", targets)
        assert (guess.kind, guess.ambiguous) == (kind, True)
    assert guess_task("y", [*prices[:9], "much"]).kind == "classification"
    assert guess_task("y", ["none", "n/a"] * 9).kind == "classification"
    assert "1 of 100 values are no numbers" in str(guess_task("y", [*prices, "N/A"]))
    assert not guess_task("y", prices).ambiguous


@pytest.mark.parametrize("odd", [["a"], {"a": 1}])
def test_a_list_among_numbers_is_left_to_the_check_of_every_row(odd: Any) -> None:
    guess = guess_columns([sample(n, x=odd if n == 5 else n / 7) for n in range(100)], None, {})[0]
    assert (guess.kind, guess.why) == ("table", "numbers, 99 different")


@pytest.mark.parametrize("raw", ["2023_01", "1_000", "nan", "1e999", "x"])
def test_what_only_a_programmer_reads_as_a_number_is_none(raw: str) -> None:
    with pytest.raises(InputError):
        as_number(raw)


def sound_bytes(kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(1600, dtype=np.float32), 16_000, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("wrapped", [True, False])
def test_encoded_sound_is_no_picture(wrapped: bool) -> None:
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "WEBP")  # which begins with RIFF, as a wav does
    for files, kind in (
        ([sound_bytes(name) for name in ("WAV", "FLAC", "OGG", "MP3", "AIFF")], "audio"),
        ([picture.getvalue()] * 3, "image"),
    ):
        values: list[Any] = [{"bytes": data, "path": None} if wrapped else data for data in files]
        (guess,) = guess_columns([sample(n, media=value) for n, value in enumerate(values)], None, {})
        assert (guess.kind, guess.ambiguous) == (kind, False)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (["a.png", "b.tif"], "image"),
        ('["a.wav", "b.mp3"]', "audio"),
        ([{"bytes": sound_bytes("FLAC"), "path": None}] * 2, "audio"),
        ([Image.new("RGB", (8, 8))], "image"),
        ([], "ignore"),
    ],
    ids=["paths", "json", "encoded", "decoded", "empty"],
)
def test_lists_of_files_are_what_the_files_are(cell: Any, kind: str) -> None:
    rows = [sample(n, media=value, question="what is it then") for n, value in enumerate([cell, cell, []])]
    (guess, _) = guess_columns(rows, None, {})
    assert (guess.kind, guess.ambiguous) == (kind, False)


@pytest.mark.parametrize("written", ["['a{0}', 'b']", "[ 'a{0}' 'b' ]", "[{{'item': 'a{0}'}}]", "[['a{0}'], []]"])
def test_lists_as_python_writes_them_are_called_so(written: str) -> None:
    """As pandas writes lists, and arrays, into a csv; some rows may have none."""
    cells = [*(written.format(number % 7) for number in range(40)), *["[]"] * 19]
    for guess in (
        guess_task("tags", cells),
        guess_column("tags", [sample(n, tags=one) for n, one in enumerate(cells)]),
    ):
        assert guess.ambiguous
        assert 'write them as JSON: ["a", "b"]' in guess.why
    json = [one.replace("'", '"') for one in cells]
    said = ["[Verse 1] it's late", "['tis late", "it's [late]"] * 20
    for tags in (json, said):
        assert "as JSON" not in guess_task("tags", tags).why
        assert "as JSON" not in guess_column("tags", [sample(n, tags=one) for n, one in enumerate(tags)]).why


def test_a_column_that_is_ignored_need_not_be_there() -> None:
    rows = [sample(n, question="what is it then") for n in range(9)]
    question, other = guess_columns(rows, None, {"id": "ignore"})
    assert (question.kind, str(other)) == ("text", "id: ignore (as set; no row has it)")
    with pytest.raises(UsageError, match=r"data\.columns names 'idea'"):
        guess_columns(rows, None, {"idea": "text"})


def test_labels_with_underscores_are_no_numbers() -> None:
    assert guess_task("month", [f"2023_{month:02}" for month in range(31)] * 5).kind == "classification"


@pytest.mark.parametrize("same", [("P1", "P1 "), (1, 1.0), ("2", "2.0"), (CommaNumber("1.000"), "1000")])
def test_a_group_is_one_however_it_is_written(same: tuple[object, object]) -> None:
    for place in range(20):
        rows = [sample(n, group=same[n % 2] if n // 2 == place else f"other {n}") for n in range(40)]
        train, held = hold_out(rows, 0.5, "group")
        assert len({row in held for row in rows[2 * place : 2 * place + 2]}) == 1
        assert len(train) + len(held) == 40


def test_rows_whose_group_is_not_a_number_are_groups_of_their_own() -> None:
    train, held = hold_out([sample(n, group=float("nan")) for n in range(20)], 0.5, "group")
    assert len(train) == len(held) == 10
