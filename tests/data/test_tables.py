"""Rows are counted alike in every kind of table; where a text file has another line for one, both are known."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from fusebert.data.dataset import report_bad_rows
from fusebert.data.decimals import CommaNumber, PointNumber, as_kind
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RowError
from fusebert.evaluation.incoming import key_of as name_of_row
from fusebert.modalities.values import as_category, as_number
from fusebert.tasks.classification.labels import key_of, spelling_of
from fusebert.types import Sample

TEXTS = ["one", "two\nlines", "three", "four"]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(pyarrow.table({"text": TEXTS}), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS).replace("\n", "\n\n", 1))
    else:
        path.write_text("text\n" + "".join(f'"{text}"\n' for text in TEXTS).replace("\n", "\n\n", 1))
    return path


@pytest.mark.parametrize(
    ("kind", "lines"), [("csv", [2, 4, 6, 7]), ("tsv", [2, 4, 6, 7]), ("jsonl", [1, 3, 4, 5]), ("parquet", [None] * 4)]
)
def test_the_first_row_is_row_1_in_every_kind(kind: str, lines: list[int | None], tmp_path: Path) -> None:
    rows = [row for row in read_table(written(tmp_path, kind)) if isinstance(row, Sample)]
    assert [(row.row, row.values["text"]) for row in rows] == list(enumerate(TEXTS, 1))
    assert [row.line for row in rows] == lines


def test_bad_rows_say_row_and_line_where_they_differ(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n"x\ny",1\n1,2,3\n\n4,5\n6\n')
    bad = [row for row in read_table(path) if isinstance(row, RowError)]
    assert [str(error).split(": ")[0] for error in bad] == [f"{path}, row 2 (line 4)", f"{path}, row 4 (line 7)"]
    with pytest.raises(DataError):
        report_bad_rows(bad, 4, "refuse", tmp_path / "bad_rows.jsonl")
    listed = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    report_bad_rows([], 4, "refuse", tmp_path / "bad_rows.jsonl")
    assert not (tmp_path / "bad_rows.jsonl").exists()
    assert [(line["row"], line["line"]) for line in listed] == [(2, 4), (4, 7)]
    with pytest.raises(DataError, match=r"2 of 4 rows .*The list .* cannot be written: (File exists|Not a directory)"):
        report_bad_rows(bad, 4, "refuse", path / "bad_rows.jsonl")
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"a": 1}\n{\n')
    assert str(list(read_table(lines))[1]).startswith(f"{lines}, row 2: not a JSON object")


def test_a_spreadsheet_divides_by_semicolons_and_has_decimal_commas(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufefftext;"price, in EUR"\r\n"fine; really";1,50\r\n2,5 stars;-3\r\n')
    rows = [row.values for row in read_table(path) if isinstance(row, Sample)]
    assert rows == [
        {"text": "fine; really", "price, in EUR": "1,50"},
        {"text": "2,5 stars", "price, in EUR": "-3"},
    ]
    assert [as_number(row["price, in EUR"]) for row in rows] == [1.5, -3]
    assert as_category(rows[0]["price, in EUR"]) == "1,50"  # tags, or a label, stay what they are
    with pytest.raises(InputError, match="is not a number"):
        as_number("1,50")  # of another table, where it may be a thousand
    path.write_text("text,a;b\n1;2,3\n")
    assert [row.values for row in read_table(path) if isinstance(row, Sample)] == [{"text": "1;2", "a;b": "3"}]
    path.write_text('"a;\nx",b\n1,2\n')
    assert [row.values for row in read_table(path) if isinstance(row, Sample)] == [{"a;\nx": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Рост, см;Вес, кг;Возраст\n180;75;30\n180,5;75,2;30\n", ";"),
        ("Рост, см;Вес, кг;Возраст\n180,5;75,2;30\n", ";"),
        ("Рост,см;Вес,кг;Возраст\n180,5;75,2;30\n181;75,2;30\n", ";"),
        ("Größe, in cm, liegend;Gewicht\n180,5;75\n", ";"),
        ('size;"a,b"\n180;75,2\n', ";"),
        ('\n"size, cm";weight\n180;75,2\n', ";"),
        ("text,a;b;c\nwhat,1\nwhat is it; say,2\n", ","),
        ("a, b; c\n1, 2; 3\n4, 5\n", ","),
        (f"a;b, c\n{'x' * 150_000};1,5\n2;3\n", ";"),
    ],
)
def test_a_csv_is_divided_by_what_gives_whole_rows(text: str, sign: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    rows = [row.values for row in read_table(path) if isinstance(row, Sample)]
    whole = [line for line in csv.reader(text.splitlines(), delimiter=sign) if line]
    assert [list(row) for row in rows] == [whole[0]] * (len(whole) - 1)
    assert [list(row.values()) for row in rows] == whole[1:]


def test_rows_that_are_longer_than_a_header_of_semicolons_say_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a;b\n1;2;\n3;4;\n")
    assert [str(row).split(": ")[1] for row in read_table(path)] == ["3 cells, but the header has 2 columns"] * 2


def test_a_name_with_thousands_is_that_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a;b\n1;1.234\n1.000;1.000\n2,5;0.5\n1.000.000;2\n2,0;1,500\n")
    rows = [row.values for row in read_table(path) if isinstance(row, Sample)]
    assert [as_category(row["a"]) for row in rows] == ["1", "1000", "2,5", "1000000", "2"]
    assert [spelling_of(key_of(row["a"])) for row in rows] == ["1", "1000", "2,5", "1000000", "2"]
    assert [name_of_row(row["a"]) for row in rows] == ["1", "1000", "2,5", "1000000", "2"]
    path.write_text("a;b\n1;x\n1.000;y\n2.000;z\n")
    rows = [row.values for row in read_table(path) if isinstance(row, Sample)]
    assert [as_category(row["a"]) for row in rows] == ["1", "1.000", "2.000"], "nothing says what the point is"
    assert [as_category(str(row["a"])) for row in rows] == ["1", "1.000", "2.000"]


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["12,38;1.026", "9,98;612", "1.154,5;2.000.000"], [[12.38, 1026], [9.98, 612], [1154.5, 2_000_000]]),
        (["10.36;3,021", "0.5;12"], [[10.36, 3021], [0.5, 12]]),
        (["0,123;7", "1,234;8"], [[0.123, 7], [1.234, 8]]),
        (["1.026;3,021", "612;7"], [[None, None], [612, 7]]),
        (["10,5;1.026", "10.5;7"], [[None, None], [None, 7]]),
    ],
)
def test_a_sheet_tells_its_decimals_by_numbers_that_read_in_one_way(
    cells: list[str], numbers: list[list[float | None]], tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a;b\n" + "".join(f"{line}\n" for line in cells))

    def read(cell: Any) -> float | None:
        try:
            return as_number(cell)
        except InputError:
            return None

    rows = [row.values for row in read_table(path) if isinstance(row, Sample)]
    assert [";".join(row.values()) for row in rows] == cells
    assert [[read(cell) for cell in row.values()] for row in rows] == numbers


def test_a_number_that_a_later_row_writes_otherwise_is_none() -> None:
    assert float(as_kind("1.234,5", CommaNumber)) == 1234.5
    for cell, kind in (("10.5", CommaNumber), ("10,5", PointNumber)):
        with pytest.raises(InputError, match="is not a number"):
            as_number(as_kind(cell, kind))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize(("encoding", "name"), [("gb18030", "GB18030"), ("utf-16", "UTF-16"), ("latin-1", "")])
def test_a_table_in_another_encoding_says_how_to_change_it(kind: str, encoding: str, name: str, tmp_path: Path) -> None:
    said = "größer naïve café" if encoding == "latin-1" else "质量不错，包装完好"
    separator = "\t" if kind == "tsv" else ","
    text = (
        json.dumps({"text": said}, ensure_ascii=False) if kind == "jsonl" else f"text{separator}n\n{said}{separator}1"
    )
    path = tmp_path / f"rows.{kind}"
    path.write_bytes(f"{text}\n".encode(encoding))
    try:
        found = " ".join(map(str, read_table(path)))
    except DataError as error:
        found = str(error)
    assert (f"iconv -f {name} -t UTF-8 IN > OUT" in found) == bool(name)
    assert "is not UTF-8" in found


def test_a_second_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeff\ufeff"评论",情感\n很好,好评\n')
    assert [row.values for row in read_table(path) if isinstance(row, Sample)] == [{"评论": "很好", "情感": "好评"}]
    path.write_text("评论，情感\n很好，好评\n")
    with pytest.raises(DataError, match="divided by '，', not by ','"):
        list(read_table(path))


def test_decimals_are_numbers(tmp_path: Path) -> None:
    prices = [Decimal("25.50"), None, Decimal("3.10")]
    parquet.write_table(
        pyarrow.table({"price": pyarrow.array(prices, pyarrow.decimal128(9, 2))}), tmp_path / "x.parquet"
    )
    assert [row.values["price"] for row in read_table(tmp_path / "x.parquet") if isinstance(row, Sample)] == [
        25.5,
        None,
        3.1,
    ]


def test_hidden_pictures_are_no_rows(tmp_path: Path) -> None:
    for name in ("cat/a.png", "cat/._a.png", ".thumbnails/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    rows = [row for row in read_table(tmp_path) if isinstance(row, Sample)]
    assert [row.values for row in rows] == [{"image": "cat/a.png", "label": "cat"}]


def test_what_is_no_picture_in_a_folder_of_pictures_is_a_bad_row(tmp_path: Path) -> None:
    for name in ("bird/a.PNG", "cat/a.png", "cat/b.psd", "cat/more/z.png", "dog/a.svg", "stray.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    rows = list(read_table(tmp_path))
    assert [row.row for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row.values["label"] for row in rows if isinstance(row, Sample)] == ["bird", "cat"]
    bad = [row.problem for row in rows if isinstance(row, RowError)]
    assert bad[0].startswith("cat/b.psd is no picture of a known kind (bmp, ")
    assert bad[1] == "cat/more is a folder within that of a class; only pictures may lie there"
    assert bad[2].startswith("dog/a.svg is no picture")
    assert bad[3] == "the picture stray.png lies in no folder of a class"


def test_a_folder_of_sounds_for_each_class_is_a_table(tmp_path: Path) -> None:
    for name in ("crow/a.wav", "crow/b.WAV", "crow/c.txt", "owl/a.flac", "stray.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    rows = list(read_table(tmp_path))
    good = [(row.values["audio"], row.values["label"]) for row in rows if isinstance(row, Sample)]
    assert good == [("crow/a.wav", "crow"), ("crow/b.WAV", "crow"), ("owl/a.flac", "owl")]
    bad = [row.problem for row in rows if isinstance(row, RowError)]
    assert bad[0].startswith("crow/c.txt is no sound of a known kind (aif, ")
    assert bad[1] == "the sound stray.wav lies in no folder of a class"


def test_a_folder_is_of_the_kind_that_most_of_its_files_are(tmp_path: Path) -> None:
    for name in ("crow/a.wav", "crow/b.wav", "crow/cover.jpg", "owl/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    (cover,) = [row.problem for row in read_table(tmp_path) if isinstance(row, RowError)]
    assert cover.startswith("crow/cover.jpg is no sound")
    for name in ("owl/a.png", "owl/b.png", "owl/c.png"):
        (tmp_path / name).write_bytes(b"")
    assert [row.values["label"] for row in read_table(tmp_path) if isinstance(row, Sample)] == ["crow", *["owl"] * 3]


def test_a_table_of_pictures_is_read_a_few_at_a_time(tmp_path: Path) -> None:
    pictures = [bytes(2**20)] * 300
    parquet.write_table(pyarrow.table({"image": pictures}), tmp_path / "x.parquet", row_group_size=50)
    rows = read_table(tmp_path / "x.parquet")
    before = pyarrow.total_allocated_bytes()
    next(rows)
    assert pyarrow.total_allocated_bytes() - before < 200 * 2**20


@pytest.mark.parametrize("as_categories", [True, False])
def test_a_long_value_that_a_parquet_repeats_is_held_once(as_categories: bool, tmp_path: Path) -> None:
    """Of 64 rows of 16 MB, in a file of a few kilobytes."""
    numbers = pyarrow.array([0, None, *[0] * 62], pyarrow.int32())
    words = pyarrow.DictionaryArray.from_arrays(numbers, ["x" * 2**24])
    table, path = pyarrow.table({"id": range(64), "text": words}), tmp_path / "a.parquet"
    parquet.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=as_categories)
    assert path.stat().st_size < 2**15
    code = (
        "import resource, sys; from pathlib import Path; from fusebert.data.tables import read_table\n"
        "import pyarrow.parquet; most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, rows = most(), list(read_table(Path(sys.argv[1])))\n"
        "print(len(rows), sum('characters' in str(row) for row in rows), rows[1].values, (most() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, long, *values, megabytes = done.stdout.split()
    assert (count, long) == ("64", "63")
    assert " ".join(values) == "{'id': 1, 'text': None}"
    assert int(megabytes) < 300


@pytest.mark.parametrize("large", [True, False])
def test_lists_of_a_long_value_hold_it_once(large: bool, tmp_path: Path) -> None:
    """Of 64 rows with thirty references to 200 kB each."""
    kind = pyarrow.large_list(pyarrow.string()) if large else pyarrow.list_(pyarrow.string())
    word = "x" * 200_000
    rows = [[word, None, "y"], None, [], *[[word] * 30] * 61]
    table = pyarrow.table({"n": range(64), "tags": pyarrow.array(rows, kind), "of": [{"a": word, "b": [1]}, None] * 32})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 2**15
    code = (
        "import resource, sys; from pathlib import Path; from fusebert.data.parquet import parquet_rows\n"
        "import pyarrow.parquet; most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before, rows = most(), list(parquet_rows(Path(sys.argv[1]), print))\n"
        "word = 'x' * 200_000\n"
        "assert [row['tags'] for row in rows] == [[word, None, 'y'], None, [], *[[word] * 30] * 61]\n"
        "assert [row['of'] for row in rows] == [{'a': word, 'b': [1]}, None] * 32\n"
        "print((most() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 120
