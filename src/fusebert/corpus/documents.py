"""Raw documents, one at a time: text files, JSON lines, parquet, folders of them, or a streamed Hub data set."""

from __future__ import annotations

import os
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from fusebert.data.lines import MAX_LINE_BYTES, decode_line, next_line
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RowError, UsageError, how_to_install
from fusebert.hub import hub_problem, is_of_http

TEXT_SUFFIXES = (".txt", ".text")
TABLE_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".parquet")
HUB = "hub:"
HUB_NAME = re.compile("(?P<name>[^:@]+)(:(?P<config>[^@]+))?(@(?P<revision>.+))?")
MAX_DOCUMENT_CHARACTERS = 2**20
"""A longer document is read in numbered pieces, cut between lines."""
PROBED_ROWS = 20
MOST_BAD_LINES = 10_000
PARQUET_ROWS, PARQUET_BUFFER_BYTES = 8, 2**20
PAGE_ROWS, PAGE_COPIES = 1024, 4
"""Parquet writers look whether a page is full after so many rows at least; reading one takes up to so many times it."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it stands: its source's place in the list of sources, its line or row from 1, and which
    piece of a long one it is, from 0."""

    text: str
    source: int
    row: int
    piece: int = 0


def list_sources(given: Sequence[str], output: Path) -> tuple[list[str], int]:
    """Files and Hub names, folders replaced by what they hold; and how many files of other kinds they hold.

    Args:
        output: a folder whose files are no input.

    Raises:
        DataError: one does not exist, is of an unknown kind, lies in `output`, or a folder holds nothing to read.
    """
    found, ignored, output = [], 0, output.resolve()
    for name in given:
        path = Path(name)
        if name.startswith(HUB):
            found.append(name)
        elif path.is_dir():
            files = [file for file in _below(path) if file.is_file() and output not in file.resolve().parents]
            inside = sorted(str(file) for file in files if _is_known(file))
            if not inside:
                raise DataError(f"{path} holds no {_kinds()} files")
            found += inside
            ignored += len(files) - len(inside)
        elif not path.exists():
            raise DataError(f"{path} does not exist")
        elif not path.is_file():
            raise DataError(f"{path} is neither a file nor a folder; write what it gives into a file first")
        elif not _is_known(path):
            raise DataError(f"{path} is not of a known kind ({_kinds()})")
        elif output in path.resolve().parents:
            raise DataError(f"{path} lies in the folder that is to be written, {output}; choose another --output")
        else:
            found.append(name)
    return found, ignored


def _below(folder: Path) -> Iterator[Path]:
    """All files but hidden ones, also behind links to folders, of which none is entered twice."""
    entered = set()
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(where)) in entered:
            folders.clear()
            continue
        entered.add(real)
        yield from (Path(where, name) for name in files if not name.startswith("."))


def probe(sources: Sequence[str], field: str) -> None:
    """Read the first rows of every source, so that a wrong format is known within seconds.

    Raises:
        RowError: the first row that cannot be read, with its file and line.
    """
    for number, source in enumerate(sources):
        first = None
        for row in islice(read_documents(source, number, field), PROBED_ROWS):
            if not isinstance(row, RowError):
                break
            first = first or row
        else:
            if first is not None:
                raise first


def check_room(sources: Sequence[str], field: str, room_bytes: int) -> None:
    """Parquet is unpacked a page at a time, which holds many rows; by its row groups' sizes, will that fit?

    Raises:
        UsageError: a page of the column `field` would take more than `room_bytes`.
    """
    for source in sources:
        if source.lower().endswith(".parquet") and not source.startswith(HUB):
            needed = _page_bytes(Path(source), field)
            if needed > room_bytes:
                more = (2 * (needed - room_bytes) >> 20) + 1
                raise UsageError(
                    f"{source}: reading a page of the column {field!r} takes about {needed >> 20} MiB; "
                    f"raise --max-memory by {more}m, or write the file with smaller pages (pyarrow: write_batch_size)"
                )


def _page_bytes(path: Path, field: str) -> int:
    """Of a damaged file, 0: whoever reads it will say so."""
    import pyarrow
    from pyarrow import parquet

    largest = 0
    try:
        with parquet.ParquetFile(path) as file:
            for group in map(file.metadata.row_group, range(file.num_row_groups)):
                columns = map(group.column, range(group.num_columns))
                size = sum(column.total_uncompressed_size for column in columns if column.path_in_schema == field)
                largest = max(largest, size * min(PAGE_ROWS, group.num_rows) // max(1, group.num_rows))
    except (pyarrow.ArrowException, OSError, ValueError):
        return 0
    return PAGE_COPIES * largest


def read_documents(source: str, number: int, field: str) -> Iterator[Document | RowError]:
    """Documents of one source in order, in constant memory.

    Args:
        number: its place in the list of sources.
        field: the column with the text, in tables.
    """
    path = Path(source)
    if source.startswith(HUB):
        yield from _from_hub(source.removeprefix(HUB), number, field)
    elif source.lower().endswith(TEXT_SUFFIXES):
        yield from _from_text(path, number)
    elif source.lower().endswith(".parquet"):
        yield from _from_parquet(path, number, field)
    else:
        for row in read_table(path, MAX_LINE_BYTES):
            if isinstance(row, RowError):
                yield row
            else:
                yield from _cut(row.values.get(field), path, number, row.row, field, list(row.values), row.line)


def _from_text(path: Path, number: int) -> Iterator[Document | RowError]:
    """Documents stand apart by blank lines. Lines that cannot be read are told behind the document that lacks them, so
    that rows come in order; only so many of them end it that they would fill the memory."""
    lines: list[str] = []
    bad: list[RowError] = []
    first, piece, size = 1, 0, 0
    with path.open("rb") as file:
        if file.peek(2)[:2] in (BOM_UTF16_LE, BOM_UTF16_BE):
            raise DataError(f"{path} is UTF-16, which editors call Unicode; save it as UTF-8")
        for line_number in count(1):
            error, text = None, ""
            try:
                line = next_line(file)
                if not line:
                    break
                if b"\0" in line:
                    raise InputError("a NUL byte, which no text has; is this a text file?")
                text = decode_line(line, line_number)
            except InputError as found:
                error = RowError(str(found), path, line_number, line=line_number)
            blank = len(bad) >= MOST_BAD_LINES or (error is None and not text.strip())
            if lines and (blank or size + len(text) > MAX_DOCUMENT_CHARACTERS):
                for document in _pieces("".join(lines), number, first, piece):
                    yield document
                    piece = document.piece + 1
                lines, size = [], 0
            if blank:
                yield from bad
                bad, piece = [], 0
            if error is not None and not lines and not piece:
                yield error
            elif error is not None:
                bad.append(error)
            elif text.strip():
                first = first if lines or piece else line_number
                lines.append(text)
                size += len(text)
    if lines:
        yield from _pieces("".join(lines), number, first, piece)
    yield from bad


def _from_parquet(path: Path, number: int, field: str) -> Iterator[Document | RowError]:
    """Only the column with the text, a few rows at a time: a thousand long documents would not fit in memory."""
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        with parquet.ParquetFile(path, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                yield RowError(_no_field(field, columns), path, 1)
                return
            for batch in file.iter_batches(PARQUET_ROWS, columns=[field], use_threads=False):
                for text in batch.column(0).to_pylist():
                    row += 1
                    yield from _cut(text, path, number, row, field, columns)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet after row {row}: {' '.join(str(error).split())}") from None


def _from_hub(given: str, number: int, field: str) -> Iterator[Document | RowError]:
    """Of the part `train` of NAME[:CONFIG][@REVISION]."""
    if (told := HUB_NAME.fullmatch(given)) is None:
        raise UsageError(f"hub:{given} is not of the form hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG@REVISION")
    try:
        from datasets import load_dataset
        from huggingface_hub.utils import logging as hub_logging
    except ImportError:
        raise UsageError(f"hub:{given} needs the library datasets; {how_to_install('corpus')}") from None
    hub_logging.set_verbosity_error()  # else it says twice for each try that the Hub cannot be reached
    try:
        rows = load_dataset(told["name"], told["config"], split="train", streaming=True, revision=told["revision"])
        for row, values in enumerate(rows, 1):
            yield from _cut(values.get(field), Path(given), number, row, field, list(values))
    except Exception as error:
        if not isinstance(error, OSError | ValueError) and not is_of_http(error, "HTTPError"):
            raise
        raise DataError(f"hub:{given} cannot be read: {hub_problem(error)}") from None


def _cut(
    text: object, path: Path, number: int, row: int, field: str, columns: Sequence[str], line: int | None = None
) -> Iterator[Document | RowError]:
    if field not in columns:
        yield RowError(_no_field(field, columns), path, row, line=line)
    elif not isinstance(text, str):
        yield RowError(f"text expected, found {type(text).__name__}", path, row, field, line)
    else:
        yield from _pieces(text, number, row)


def _pieces(text: str, number: int, row: int, piece: int = 0) -> Iterator[Document]:
    """The text, or parts of a long one that end where a line does, numbered from `piece` on."""
    start = 0
    while len(text) - start > MAX_DOCUMENT_CHARACTERS:
        end = text.rfind("\n", start, start + MAX_DOCUMENT_CHARACTERS) + 1
        end = end if end > start else start + MAX_DOCUMENT_CHARACTERS
        yield Document(text[start:end], number, row, piece)
        start, piece = end, piece + 1
    yield Document(text[start:], number, row, piece)


def _no_field(field: str, columns: Sequence[str]) -> str:
    return f"there is no field {field!r}, only {', '.join(columns)}; name the text with --field"


def _is_known(path: Path) -> bool:
    return path.name.lower().endswith((*TEXT_SUFFIXES, *TABLE_SUFFIXES))


def _kinds() -> str:
    return ", ".join(suffix.removeprefix(".") for suffix in (*TEXT_SUFFIXES[:1], *TABLE_SUFFIXES))
