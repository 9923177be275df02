"""Corpora as they should not be: a sentence that says what is wrong and where, or the right result."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from fusebert.cli import main
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.shards import read_shards
from tests.corpus.conftest import write_jsonl

LONG = "The ship crossed the harbour in the morning and left it again before the war. " * 3


def written(name: str, data: bytes | str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
        return path

    return write


def rows(*texts: object, field: str = "text", name: str = "a.jsonl") -> Callable[[Path], Path]:
    return written(name, "".join(json.dumps({field: text}) + "\n" for text in texts))


@dataclass(frozen=True)
class Case:
    """`words` that the message holds, or for a right result the `documents` that are kept."""

    kind: str
    source: Callable[[Path], Path | str]
    words: tuple[str, ...] = ()
    documents: int | None = None
    flags: tuple[str, ...] = ()


def parquet_file(folder: Path) -> Path:
    parquet.write_table(pa.table({"body": [LONG]}), folder / "a.parquet")
    return folder / "a.parquet"


def empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.jsonl")
    return folder / "a.jsonl"


def loop(folder: Path) -> Path:
    (folder / "a.txt").symlink_to(folder / "a.txt")
    return folder / "a.txt"


def looping_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "again").symlink_to(folder / "in")
    (folder / "in" / "a.txt").write_text(LONG)
    return folder / "in"


def folder_named_txt(folder: Path) -> Path:
    (folder / "a.txt").mkdir()
    (folder / "a.txt" / "b.txt").write_text(LONG)
    return folder / "a.txt"


def unreadable(folder: Path) -> Path:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = written("a.txt", LONG)(folder)
    path.chmod(0)
    return path


def parquet_as(name: str, body: dict[str, list[object]]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        parquet.write_table(pa.table(body), folder / name)
        return folder / name

    return write


def damaged_parquet(folder: Path) -> Path:
    path = parquet_as("a.parquet", {"text": [LONG + str(number) for number in range(2000)]})(folder)
    data = bytearray(path.read_bytes())
    data[40:400] = bytes(360)
    path.write_bytes(data)
    return path


REFUSED = [
    Case("named pipe", pipe, ("a.jsonl", "neither a file nor a folder")),
    Case("link to itself", loop, ("a.txt", "does not exist")),
    Case("no right to read", unreadable, ("a.txt", "denied")),
    Case("parquet named jsonl", parquet_as("a.jsonl", {"text": [LONG]}), ("a.jsonl", "row 1")),
    Case("jsonl named parquet", rows(LONG, name="a.parquet"), ("a.parquet", "parquet")),
    Case("damaged parquet", damaged_parquet, ("a.parquet", "cannot be read as parquet")),
    Case("numbers in parquet", parquet_as("a.parquet", {"text": [1, 2]}), ("a.parquet", "row 1", "int")),
    Case("JSON array on one line", written("a.jsonl", json.dumps([{"text": LONG}])), ("a.jsonl", "row 1", "list")),
    Case("JSON array on lines", written("a.jsonl", '[\n{"text": "x"},\n]'), ("a.jsonl", "row 1")),
    Case("nested JSON", written("a.jsonl", '{"text": ' + "[" * 10**6 + "\n"), ("a.jsonl", "row 1", "JSON")),
    Case("Latin-1 after UTF-8", written("a.txt", LONG.encode() + b"\n\ncaf\xe9\n"), ("a.txt", "row 3", "UTF-8")),
    Case("NUL bytes in text", written("a.txt", LONG + "\0" * 9), ("a.txt", "row 1", "NUL")),
    Case("no such data set", lambda folder: "hub:" + str(folder / "none"), ("hub:", "none")),
    Case("missing", lambda folder: folder / "none.txt", ("none.txt", "does not exist")),
    Case("unknown kind", written("a.pdf", b"%PDF"), ("a.pdf", "known kind")),
    Case("empty folder", empty_folder, ("empty", "holds no")),
    Case("binary named txt", written("a.txt", bytes(range(256)) * 9), ("a.txt", "row 1")),
    Case("not UTF-8", written("a.txt", b"caf\xe9\n" * 9), ("a.txt", "row 1", "UTF-8")),
    Case("UTF-16", written("a.txt", LONG.encode("utf-16")), ("a.txt", "is UTF-16", "save it as UTF-8")),
    Case("Hub name of another form", lambda _: "hub:@main", ("hub:@main", "hub:NAME:CONFIG")),
    Case("picture named jsonl", written("a.jsonl", b"\x89PNG\r\n\x1a\n" + bytes(99)), ("a.jsonl", "row 1")),
    Case("empty jsonl", written("a.jsonl", b""), ("a.jsonl", "empty")),
    Case("empty txt", written("a.txt", b"\n\n \n"), ("a.txt", "no document")),
    Case("wrong field", rows(LONG, field="body"), ("a.jsonl", "row 1", "'text'", "body", "--field")),
    Case("wrong field, parquet", parquet_file, ("a.parquet", "'text'", "body")),
    Case("text is a number", rows(LONG, 5), ("a.jsonl", "row 2", "int")),
    Case("text is null", rows(LONG, None), ("a.jsonl", "row 2", "NoneType")),
    Case("broken JSON line", written("a.jsonl", json.dumps({"text": LONG}) + "\n{\n"), ("a.jsonl", "row 2")),
    Case("gzip cut short", written("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 999)[:-40]), ("a.jsonl.gz", "row")),
    Case("not gzip", written("a.jsonl.gz", b"plain"), ("a.jsonl.gz", "damaged")),
    Case("parquet cut short", written("a.parquet", b"PAR1"), ("a.parquet",)),
    Case("a line of 9 MiB", written("a.txt", b"word " * (9 * 2**20 // 5)), ("a.txt", "row 1", "8 MiB")),
    Case("lone surrogate in JSON", written("a.jsonl", '{"text": "\\ud800"}\n'), ("a.jsonl", "row 1", "surrogate")),
    Case("held-out share of 1", rows(LONG), ("--held-out",), flags=("--held-out", "1")),
    Case("no memory", rows(LONG), ("--max-memory", "at least"), flags=("--max-memory", "10m")),
    Case(
        "a key twice among many",
        written("a.jsonl", "{" + ", ".join(f'"{key}": 0' for key in [*range(200_000), 199_999]) + "}\n"),
        ("a.jsonl", "row 1", "'199999'", "twice"),
    ),
    Case(
        "unknown language",
        rows(LONG),
        ("--language", "'klingon'", "auto", "en, zh, ja", "other"),
        flags=("--language", "klingon"),
    ),
    Case("no workers", rows(LONG), ("--workers",), flags=("--workers", "0")),
]
READ = [
    Case("folder that holds itself", looping_folder, documents=1),
    Case("folder named txt", folder_named_txt, documents=1),
    Case("a bad line inside a document", written("a.txt", LONG.encode() + b"\ncaf\xe9\n" + LONG[9:].encode()),
         documents=1, flags=("--bad-rows", "skip")),
    Case("one long line in pieces", written("a.txt", " ".join(map(str, range(400_000)))), documents=3),
    Case("a name twice", lambda folder: rows(LONG, LONG)(folder), documents=1),
    Case("lone surrogates, skipped", rows(LONG, "\ud800" * 200), documents=1, flags=("--bad-rows", "skip")),
    Case("any language", rows(LONG), documents=1, flags=("--language", "other")),
    Case("no blank lines", written("a.txt", (LONG + "\n") * 5), documents=1),
    Case("one document", rows(LONG), documents=1),
    Case("one line without an end", written("a.txt", LONG.encode()), documents=1),
    Case("windows line ends", written("a.txt", (LONG + "\r\n\r\n" + LONG[9:]).encode()), documents=2),
    Case("byte order mark", written("a.txt", b"\xef\xbb\xbf" + LONG.encode()), documents=1),
    Case("a bad line, skipped", written("a.jsonl", json.dumps({"text": LONG}) + "\n{\n"), documents=1,
         flags=("--bad-rows", "skip")),
    Case("right to left", rows("هذه جملة طويلة عن المدينة القديمة. " * 9), documents=1),
    Case("combining characters", rows("e\u0301" * 200), documents=1),
    Case("emoji with joiners", rows("👩\u200d👩\u200d👧 " * 60), documents=1),
    Case("control characters", rows("\x01\x02" * 300 + LONG), documents=1),
    Case("only short ones", rows("a b", "c d", LONG), documents=1),
    Case("spelled-out special tokens", rows("[SEP] [MASK] [CLS] " * 20), documents=1),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.kind)
def test_refused(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    started = time.process_time()
    code = main(_command(case, tmp_path))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("fusebert: ")]
    assert code in (1, 2)
    assert len(said) == 1
    assert [word for word in case.words if word not in said[0]] == [], said[0]
    assert time.process_time() - started < 5
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize("case", READ, ids=lambda case: case.kind)
def test_read(case: Case, tmp_path: Path) -> None:
    assert main(_command(case, tmp_path)) == 0
    found = list(read_shards(tmp_path / "out", "train"))
    assert len(found) == case.documents
    assert all(row["sentences"] and all(row["sentences"]) for row in found)


def test_damaged_files_are_skipped_and_listed_and_the_others_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = "".join(json.dumps({"text": f"{number} {LONG}"}) + "\n" for number in range(2000)).encode()
    written("b_cut.jsonl.gz", gzip.compress(lines)[:-40])(folder)
    written("c_nul.txt", LONG + "\n\n" + "\0" * 9)(folder)
    written("d_long.txt", b"word " * (9 * 2**20 // 5))(folder)
    written("e_empty.jsonl", b"")(folder)
    damaged_parquet(folder)
    rows(*(LONG[9:] + str(number) for number in range(5)), name="z.jsonl")(folder)
    flags = ["--held-out", "0", "--workers", "1", "--bad-rows", "skip", "--keep-near-duplicates"]
    assert main(["corpus", "prepare", str(folder), "--output", str(tmp_path / "out"), *flags]) == 0
    listed = [json.loads(line) for line in (tmp_path / "out" / "bad_documents.jsonl").read_text().splitlines()]
    assert [Path(row["table"]).name[0] for row in listed] == ["a", "b", "c", "d", "e"]
    lost = [Path(row["table"]).name[0] for row in listed if "what follows in this file is lost" in row["problem"]]
    assert lost == ["a", "b", "e"]
    assert [row["problem"] for row in listed if row["table"] in row["problem"]] == []
    assert "3 files are damaged; how many documents are lost is not known" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["counts"]["damaged_files"] == 3
    found = [int(row["id"].split(":")[0]) for row in read_shards(tmp_path / "out", "train")]
    assert found.count(5) == 5
    assert found.count(1) > 100


NO_LINE = {"too long": b"word " * (9 * 2**20 // 5), "NUL": b"\0" * 9, "not UTF-8": b"caf\xe9"}


@pytest.mark.parametrize("problem", NO_LINE)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_what_follows_a_line_that_cannot_be_read_is_read(name: str, problem: str, tmp_path: Path) -> None:
    texts = [f"{number} {LONG}" for number in range(3)]
    before, *after = [text if name == "a.txt" else json.dumps({"text": text}) for text in texts]
    lines = [before.encode(), NO_LINE[problem], *(line.encode() for line in after)]
    data = b"\n".join(lines)
    source = written(name, gzip.compress(data, 1) if name.endswith("gz") else data)(tmp_path)
    flags = ["--held-out", "0", "--workers", "1", "--bad-rows", "skip", "--keep-near-duplicates"]
    assert main(["corpus", "prepare", str(source), "--output", str(tmp_path / "out"), *flags]) == 0
    (listed,) = map(json.loads, (tmp_path / "out" / "bad_documents.jsonl").read_text().splitlines())
    assert listed["row"] == 2
    found = [" ".join(row["sentences"]) for row in read_shards(tmp_path / "out", "train")]
    assert [text[0] for text in found] == (["0"] if name == "a.txt" else ["0", "1", "2"])
    assert sum(text.count("The ship") for text in found) == 9


def _command(case: Case, folder: Path) -> list[str]:
    given = ["--held-out", "0", "--workers", "1", *case.flags]
    return ["corpus", "prepare", str(case.source(folder)), "--output", str(folder / "out"), *given]


def test_a_file_name_that_is_no_text(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.jsonl")
    (folder / name).write_bytes(b'{"text": "%s"}\n' % b" ".join(b"The ship left harbour %d." % n for n in range(20)))
    try:
        report = prepare_corpus(str(folder), tmp_path / "out", Settings(held_out=0.0))
    except OSError:
        pytest.skip("this disk takes no such names")
    assert report["counts"]["train_documents"] == 1
    assert report["sources"][0].endswith("caf\\udce9.jsonl")


def test_many_tiny_documents(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [f"document {number} says little" for number in range(10_000)])
    flags = ["--least-characters", "10", "--held-out", "0", "--workers", "1"]
    assert main(["corpus", "prepare", str(source), "--output", str(tmp_path / "out"), *flags]) == 0
    assert sum(1 for _ in read_shards(tmp_path / "out", "train")) == 10_000
