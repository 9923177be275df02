"""Pictures and tables as they should not be."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow
from pyarrow import parquet

from tests.bad_input.place import BAD_ROW, WORDS, Case, Place, answers, png, rows

# Pictures


def many_scans() -> bytes:
    """A JPEG whose last scan stands there a hundred times more."""
    whole = png(kind="JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 101 + whole[-2:]


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels, one bit each, all black: 110 kB of file, 2.7 GB of picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 3, 0, 0, 0))
    body = chunk(b"PLTE", bytes(6)) + chunk(b"IDAT", zlib.compress(bytes(30_000 * 100), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def lying_bmp() -> bytes:
    data = bytearray(png(kind="BMP"))
    data[18:26] = struct.pack("<ii", 4000, 4000)
    return bytes(data)


def picture(name: str, data: bytes | None = None) -> Callable[[Place], list[str]]:
    """Train on a table whose row 4 names the picture `name`."""

    def command(place: Place) -> list[str]:
        if data is not None:
            place.write(name, data)
        return place.train(place.jsonl(rows({"image": name})))

    return command


def link_out(place: Place) -> list[str]:
    (place.folder / "link.png").symlink_to(place.model / "plots")
    return picture("link.png")(place)


def folder_as_picture(place: Place) -> list[str]:
    (place.folder / "folder.png").mkdir()
    return picture("folder.png")(place)


# Tables


def table(name: str, data: bytes | str, *settings: str, target: str = "answer") -> Callable[[Place], list[str]]:
    """Train on a table with these bytes."""
    return lambda place: place.train(place.write(name, data), *settings, target=target)


def lines(bad: str | bytes) -> bytes:
    """A jsonl table whose row 4 is `bad`."""
    good = [json.dumps({"question": f"what is {word}", "answer": "ab"[i % 2]}).encode() for i, word in enumerate(WORDS)]
    good[BAD_ROW - 1] = bad if isinstance(bad, bytes) else bad.encode()
    return b"\n".join(good) + b"\n"


def delimited(bad: str | bytes = b"what is it,a", delimiter: str = ",") -> bytes:
    """A csv table whose line 4 is `bad`."""
    good = [delimiter.join(pair).encode() for pair in [("question", "answer")]]
    good += [f"what is {word}{delimiter}{'ab'[number % 2]}".encode() for number, word in enumerate(WORDS)]
    good[BAD_ROW - 1] = bad if isinstance(bad, bytes) else bad.encode()
    return b"\n".join(good) + b"\n"


def on_rows(*changes: dict[str, Any], start: int = BAD_ROW) -> Callable[[Place], list[str]]:
    return lambda place: place.train(place.jsonl(rows(*changes, start=start)))


def on_answers(values: list[Any], *flags: str) -> Callable[[Place], list[str]]:
    return lambda place: [*place.train(place.jsonl(answers(values))), *flags]


def unseen(part: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        other = place.jsonl(rows({"answer": "violet"}), f"{part}.jsonl")
        return place.train(place.jsonl(rows()), f"data.{part}={other}")

    return command


def damaged_parquet(place: Place) -> list[str]:
    path = place.folder / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows()), path)
    path.write_bytes(path.read_bytes()[:-20])
    return place.train(path)


def far_parquet(place: Place) -> list[str]:
    """A time that Python cannot hold."""
    times = pyarrow.array([2**62] * 12, pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"when": times, "answer": ["a", "b"] * 6}), place.folder / "rows.parquet")
    return place.train(place.folder / "rows.parquet")


def vast_parquet(cell: Any) -> Callable[[Place], list[str]]:
    """A small file with a cell that is none."""

    def write(place: Place) -> list[str]:
        table = pyarrow.table({"x": cell(), "answer": ["a", "b"]})
        parquet.write_table(table, place.folder / "rows.parquet", compression="zstd", use_dictionary=False)
        return place.train(place.folder / "rows.parquet")

    return write


def many_values() -> pyarrow.Array:
    return pyarrow.ListArray.from_arrays([0, 3_000_000, 3_000_000], pyarrow.nulls(3_000_000, pyarrow.int8()))


def doubled_parquet(place: Place) -> list[str]:
    column = pyarrow.array(["a", "b"])
    parquet.write_table(pyarrow.table([column, column], names=["x", "x"]), place.folder / "rows.parquet")
    return place.train(place.folder / "rows.parquet", target="x")


def strips(count: int, kind: int = 4, rows: int = 1) -> bytes:
    """A tiff of 64 x 64 pixels, whose header has one byte range of it decoded again and again.

    Args:
        kind: of the numbers that say where a strip lies: 1 of 8 bits, 4 of 32.
    """
    entries = [(256, 64), (257, 64), (258, 8), (259, 1), (262, 1), (277, 1), (278, rows)]
    directory = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries)
    directory += struct.pack("<HHII", 273, kind, count, 8 + 2 + 12 * 9 + 4) + struct.pack("<HHII", 279, 4, 1, 64 * rows)
    places = (b"\x08" if kind == 1 else struct.pack("<I", 8)) * count
    return struct.pack("<2sHIH", b"II", 42, 8, 9) + directory + bytes(4) + places + bytes(64 * 64)


def bare_parquet(place: Place) -> list[str]:
    parquet.write_table(pyarrow.table({}), place.folder / "rows.parquet")
    return place.train(place.folder / "rows.parquet")


CELL = "a " * 500_000
RED_OR_BLUE = ["red", "blue"]
BAD, BAD_LINE = f"row {BAD_ROW}", f"row {BAD_ROW - 1} (line {BAD_ROW})"

PICTURES = [
    Case("missing", picture("none.png"), 1, ("rows.jsonl", BAD, "'image'", "none.png", "does not exist")),
    Case("on the web", picture("https://example.com/a.png"), 1, (BAD, "'image'", "on the web", "fetch")),
    Case("truncated png", picture("cut.png", png()[:70]), 1, (BAD, "'image'", "damaged")),
    Case("truncated jpeg", picture("cut.jpg", png(kind="JPEG")[:400]), 1, (BAD, "'image'", "damaged")),
    Case("truncated tiff", picture("cut.tif", png(kind="TIFF")[:400]), 1, (BAD, "'image'", "damaged")),
    Case("tiff of countless strips", picture("a.tif", strips(200_000)), 1, (BAD, "'image'", "more than 100,000")),
    Case("the same, in bytes", picture("a.tif", strips(200_000, kind=1)), 1, (BAD, "'image'", "more than 100,000")),
    Case("tiff of large strips", picture("a.tif", strips(90, rows=63)), 1, (BAD, "'image'", "more than the picture")),
    Case("tiff without its end", picture("a.tif", png(kind="TIFF", compression="tiff_lzw")[:60]), 1, (BAD, "a TIFF")),
    Case("list as Python writes it", picture("['a.png']"), 1, (BAD, "'image'", "write it as JSON")),
    Case("a kind that is not read", picture("a.heic", b"\0\0\0\x18ftypheic"), 1, (BAD, "'image'", "no", "TIFF")),
    Case("truncated webp", picture("cut.webp", png(kind="WEBP")[:40]), 1, (BAD, "'image'", "damaged")),
    Case("0 bytes", picture("empty.png", b""), 1, (BAD, "'image'", "empty")),
    Case("text named .png", picture("text.png", b"hello\n" * 50), 1, (BAD, "'image'", "not a picture")),
    Case("a JPEG of 101 scans", picture("scans.jpg", many_scans()), 1, (BAD, "'image'", "more than 100 scans")),
    Case("30,000 x 30,000 pixels", picture("bomb.png", bomb()), 1, (BAD, "'image'", "too large", "pixels")),
    Case("svg", picture("a.svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 1, (BAD, "not a picture")),
    Case("eps named .png", picture("eps.png", png(kind="EPS")), 1, (BAD, "'image'", "not a picture")),
    Case("bmp lying about its size", picture("lie.bmp", lying_bmp()), 1, (BAD, "'image'", "damaged")),
    Case("path with ..", picture("../../etc/passwd.png"), 1, (BAD, "'image'", "out of the table's folder")),
    Case("absolute path", picture("/etc/passwd.png"), 1, (BAD, "'image'", "absolute path")),
    Case("link out of the folder", link_out, 1, (BAD, "'image'", "out of the table's folder")),
    Case("path with NUL", picture("a\0b.png"), 1, (BAD, "'image'", "NUL")),
    Case("path of 5,000 characters", picture("a" * 5000 + ".png"), 1, (BAD, "'image'", "too long")),
    Case("folder as picture", folder_as_picture, 1, (BAD, "'image'", "not a file")),
]

TABLES = [
    Case("missing table", lambda place: place.train(place.folder / "none.csv"), 1, ("none.csv", "does not exist")),
    Case(
        "nothing but the target",
        table("rows.jsonl", '{"answer": "a"}\n' * 12),
        1,
        ("rows.jsonl", "no column", "beside 'answer'"),
    ),
    Case(
        "nothing but the target, and a broken line",
        table("rows.jsonl", '{"answer": "a"}\n' * 12 + '{"question": "w'),
        1,
        ("rows.jsonl", "row 13", "not a JSON object"),
    ),
    Case(
        "parquet with a vast cell",
        vast_parquet(lambda: [b"\0" * (2**27 + 2**10), None]),
        1,
        ("rows.parquet", "'x'", "more than a row can have"),
    ),
    Case("parquet with a vast list", vast_parquet(many_values), 1, ("rows.parquet", "more than a row can have")),
    Case("parquet without columns", bare_parquet, 1, ("rows.parquet", "no columns")),
    Case("parquet with a far time", far_parquet, 1, ("rows.parquet", "cannot be read")),
    Case("unknown kind", table("rows.txt", "a\n"), 1, ("rows.txt", "known kind")),
    Case("empty", table("rows.csv", b""), 1, ("rows.csv", "empty")),
    Case("header only", table("rows.csv", "question,answer\n"), 1, ("rows.csv", "no rows")),
    Case(
        "no target",
        lambda place: place.train(place.jsonl(rows()), target=None),
        2,
        ("data.target=answer", "rows.jsonl"),
    ),
    Case("target column missing", table("rows.csv", delimited(), target="x"), 2, ("rows.csv", "'x'", "does not exist")),
    Case("target always empty", on_answers([None]), 1, ("rows.jsonl", "no row", "'answer'")),
    Case("target empty in a row", on_rows({"answer": ""}), 1, ("rows.jsonl", BAD, "'answer'", "empty")),
    Case("one class only", on_answers(["red"]), 1, ("rows.jsonl", "'answer'", "1 label", "at least two")),
    Case("label unseen in train, validation", unseen("validation"), 1, ("validation.jsonl", BAD, "'answer'", "violet")),
    Case("label unseen in train, test", unseen("test"), 1, ("test.jsonl", BAD, "'answer'", "violet", "unseen_labels")),
    Case("label is an object", on_rows({"answer": {"a": 1}}), 1, ("rows.jsonl", BAD, "'answer'", "not a label")),
    Case(
        "list of lists as labels", on_answers([["red"], ["blue"], [["red"]]]), 1, ("row 3", "'answer'", "not a label")
    ),
    Case("labels 1 and '1'", on_answers([1, "1"]), 1, ("rows.jsonl", "'answer'", "mix", "numbers", "text")),
    Case("lists mixed with scalars", on_answers(["red", ["blue"]]), 1, ("rows.jsonl", "'answer'", "lists")),
    Case("labels in digits, --strict", on_answers(["1", "2"], "--strict"), 2, ("answer", "digits", "task.name")),
    Case(
        "target nan",
        table("rows.csv", delimited("what is it,nan").replace(b",a\n", b",1.5\n").replace(b",b\n", b",2\n")),
        1,
        ("rows.csv", BAD_LINE, "'answer'", "not a finite number"),
    ),
    Case(
        "target inf",
        table("rows.csv", delimited("what is it,inf").replace(b",a\n", b",1.5\n").replace(b",b\n", b",2\n")),
        1,
        ("rows.csv", BAD_LINE, "'answer'", "not a finite number"),
    ),
    Case("integer of 400 digits", on_answers([1.5, 2.5, int("9" * 400)]), 1, ("rows.jsonl", "row 3", "'answer'")),
    Case("number of 1e300", on_answers([1.5, 2.5, 1e300]), 1, ("rows.jsonl", "row 3", "'answer'", "up to 1e+100")),
    Case("csv not UTF-8", table("rows.csv", delimited(b"caf\xe9,a")), 1, ("rows.csv", BAD_LINE, "UTF-8")),
    Case("jsonl not UTF-8", table("rows.jsonl", lines(b'{"question": "caf\xe9"}')), 1, ("rows.jsonl", BAD, "UTF-8")),
    Case("UTF-16", table("rows.csv", delimited().decode().encode("utf-16")), 1, ("rows.csv", "header", "UTF-8")),
    Case("ragged", table("rows.csv", delimited("what,is,it")), 1, ("rows.csv", BAD_LINE, "3 cells", "2 columns")),
    Case(
        "unclosed quote, skipping",
        table("rows.csv", delimited('"what is it,a'), "data.bad_rows=skip"),
        1,
        ("rows.csv", BAD_LINE, "quote"),
    ),
    Case(
        "setting of another task",
        on_answers([1.5, 2.5], "task.ignore_case=true"),
        2,
        ("task.ignore_case", "regression"),
    ),
    Case(
        "setting of the guessed task",
        on_answers(["a", "b"], "task.label_smoothing=2"),
        2,
        ("task.label_smoothing", "2"),
    ),
    Case(
        "unclosed quote",
        table("rows.csv", delimited('"what is it,a')),
        1,
        ("rows.csv", BAD_LINE, "quote", "not closed"),
    ),
    Case(
        "not UTF-8 inside quotes",
        table("rows.csv", delimited(b'"what\ncaf\xe9 is it",a'), "data.bad_rows=skip"),
        1,
        ("rows.csv", f"line {BAD_ROW + 1}", "UTF-8", "rows after it"),
    ),
    Case(
        "not UTF-8 where a quote opens",
        table("rows.csv", delimited(b'"caf\xe9\nwhat is it",a'), "data.bad_rows=skip"),
        1,
        ("rows.csv", f"line {BAD_ROW}", "UTF-8", "rows after it"),
    ),
    Case("semicolons", table("rows.tsv", delimited("a;b", ";")), 1, ("rows.tsv", "';'", "'\\t'")),
    Case("duplicate column", table("rows.csv", "a,b,a\n1,2,3\n"), 1, ("rows.csv", "'a'", "more than once")),
    Case("duplicate column, parquet", doubled_parquet, 1, ("rows.parquet", "'x'", "more than once")),
    Case(
        "nothing but commas after a header", table("rows.csv", "a,b,,\n1,2,,\n"), 1, ("rows.csv", "without a name", "3")
    ),
    Case("UTF-16", table("rows.csv", "a,b\n1,2\n".encode("utf-16-le")), 1, ("rows.csv", "zero bytes", "UTF-8")),
    Case("carriage returns", table("rows.csv", "a,b\r1,2\r"), 1, ("rows.csv", "carriage return", "line ends")),
    Case("key without a name", table("rows.jsonl", lines('{"": 1}')), 1, ("rows.jsonl", BAD, "no name")),
    Case("unnamed column", table("rows.csv", "a,,b\n1,2,3\n"), 1, ("rows.csv", "without a name", "2")),
    Case("broken JSON", table("rows.jsonl", lines('{"question": ')), 1, ("rows.jsonl", BAD, "not a JSON object")),
    Case("JSON array", table("rows.jsonl", lines("[1, 2]")), 1, ("rows.jsonl", BAD, "object expected", "list")),
    Case("duplicate key", table("rows.jsonl", lines('{"a": 1, "a": 2}')), 1, ("rows.jsonl", BAD, "'a'", "twice")),
    Case("NaN in JSON", table("rows.jsonl", lines('{"a": NaN}')), 1, ("rows.jsonl", BAD, "NaN", "null")),
    Case("deep nesting", table("rows.jsonl", lines("[" * 100_000)), 1, ("rows.jsonl", BAD, "recursion")),
    Case(
        "lone surrogate",
        table("rows.jsonl", lines('{"question": "what is \\ud800", "answer": "a"}')),
        1,
        ("rows.jsonl", BAD, "'question'", "surrogate"),
    ),
    Case(
        "lone surrogate in a label",
        table("rows.jsonl", lines('{"question": "what", "answer": "\\udcff"}')),
        1,
        ("rows.jsonl", BAD, "'answer'", "surrogate"),
    ),
    Case(
        "truncated gzip", table("rows.jsonl.gz", gzip.compress(lines("{}") * 400)[:-300]), 1, ("rows.jsonl.gz", "row")
    ),
    Case(
        "truncated gzip, skipping",
        table("rows.jsonl.gz", gzip.compress(lines("{}") * 400)[:-300], "data.bad_rows=skip"),
        1,
        ("rows.jsonl.gz", "damaged after row", "copy it again"),
    ),
    Case("damaged parquet", damaged_parquet, 1, ("rows.parquet", "parquet")),
    Case(
        "1 MB cell",
        on_rows({"question": CELL}),
        1,
        ("rows.jsonl", BAD, "'question'", "1,000,000 characters", "shorten"),
    ),
    Case("nested text", on_rows({"question": [["a"]]}), 1, ("rows.jsonl", BAD, "'question'", "text expected")),
    Case(
        "nothing in a row", on_rows({"question": None, "image": ""}), 1, ("rows.jsonl", BAD, "image, question", "empty")
    ),
    Case("too few rows", table("rows.csv", "question,answer\nwhat is,a\nis it,b\n"), 1, ("rows.csv", "too few")),
    Case("folder without pictures", lambda place: place.train(place.folder, target="label"), 1, ("no folders",)),
    Case(
        "check finds bad rows",
        lambda place: ["check", str(place.jsonl(rows({"image": "no.png"})))],
        1,
        ("rows.jsonl", BAD, "no.png"),
    ),
]
