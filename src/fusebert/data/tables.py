"""Tables of rows, read one at a time: csv, tsv, jsonl, jsonl.gz, parquet, or folders of pictures or sounds by class.

A row that cannot be read is yielded as a RowError, not raised, so that the caller may count, list and skip such rows.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from fusebert.data.decimals import as_kind, number_kinds
from fusebert.data.lines import MAX_LINE_BYTES, decode_line, next_line
from fusebert.data.parquet import parquet_rows
from fusebert.errors import DataError, InputError, RowError, row_in_words
from fusebert.modalities.files import PICTURE_SUFFIXES, READ_PICTURES, READ_SOUNDS, SOUND_SUFFIXES
from fusebert.types import Sample

MAX_CELL_CHARACTERS = 200_000
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which no file can hold as UTF-8; JSON can spell it, and so can a file name."""
QUOTED, DIVIDING_COMMA = re.compile(b'"[^"]*"'), re.compile(b",(?! )")
ROWS_LOOKED_AT = 1000
"""To see how a spreadsheet divides its cells and writes its numbers."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".jsonl.gz", ".ndjson", ".parquet")
KINDS = "csv, tsv, jsonl, jsonl.gz, parquet, or a folder of pictures or sounds"
FOLDERS_OF = {"image": ("picture", PICTURE_SUFFIXES, READ_PICTURES), "audio": ("sound", SOUND_SUFFIXES, READ_SOUNDS)}
"""What lies in a folder for each class: the column that it becomes, its name in words, its files' suffixes, and
those of them that are read."""

Rows = Iterator[Sample | RowError]


def read_table(path: Path, max_characters: int = MAX_CELL_CHARACTERS) -> Rows:
    """Rows of a table in order, in constant memory.

    Args:
        max_characters: of one cell; a row with a longer one cannot be used.

    Raises:
        DataError: the table as a whole cannot be read.
    """
    try:
        is_there = path.exists()
    except OSError as error:
        raise DataError(f"the table {path} cannot be read: {error.strerror}") from None
    if not is_there:
        raise DataError(f"the table {path} does not exist")
    if path.is_dir():
        return _read_folder(path)
    if path.stat().st_size == 0:
        raise DataError(f"the table {path} is empty")
    name = path.name.lower()
    if name.endswith(".csv"):
        return _read_delimited(path, _csv_delimiter(path), max_characters)
    if name.endswith(".tsv"):
        return _read_delimited(path, "\t", max_characters)
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return _read_json_lines(path, max_characters)
    if name.endswith(".parquet"):
        return _read_parquet(path, max_characters)
    raise DataError(f"{path} is not a table of a known kind ({KINDS})")


def _sample(
    path: Path,
    row: int,
    values: Mapping[str, Any],
    max_characters: int = MAX_CELL_CHARACTERS,
    line: int | None = None,
) -> Sample | RowError:
    found = Sample(path, row, values, path if path.is_dir() else path.parent, line)
    for column, value in values.items():
        if isinstance(value, str) and len(value) > max_characters:
            long = f"the cell has {len(value):,} characters; at most {max_characters:,} are read"
            return found.error(f"{long}; shorten it, or take the column out of the table", column)
        if any(isinstance(text, str) and HALF_CHARACTER.search(text) for text in (column, value, *_items(value))):
            return found.error("the text contains half a character (a lone surrogate)", column)
    return found


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def track_absent_columns(rows: Rows, columns: set[str]) -> Rows:
    """The rows; at their end `columns` holds those that no row had, not even empty; none where no row can be read."""
    seen = False
    for row in rows:
        if isinstance(row, Sample):
            seen = True
            columns.difference_update(row.values)
        yield row
    if not seen:
        columns.clear()


def _csv_delimiter(path: Path) -> str:
    """A comma, or a semicolon as spreadsheets have it beside decimal commas. Of a header with both, the one by which
    more rows have as many cells; then the more frequent one, where a comma before a space divides nothing."""
    with path.open("rb") as file:
        header = next((line for line in iter(lambda: file.readline(MAX_LINE_BYTES), b"") if line.strip()), b"")
    header = QUOTED.sub(b"", header)
    if b'"' in header or b";" not in header:  # a name runs over several lines, or no doubt
        return ","
    if b"," not in header:
        return ";"
    by_comma, by_semicolon = (_whole_rows(_first_records(path, sign)) for sign in ",;")
    more = by_semicolon - by_comma or header.count(b";") - len(DIVIDING_COMMA.findall(header))
    return ";" if more > 0 else ","


def _whole_rows(records: list[list[str]]) -> int:
    """How many have as many cells as the first, the header."""
    return sum(len(record) == len(records[0]) for record in records[1:])


def _records(lines: _TextLines, delimiter: str) -> Any:
    csv.field_size_limit(MAX_LINE_BYTES)
    return csv.reader(lines, delimiter=delimiter, strict=True)


def _first_records(path: Path, delimiter: str) -> list[list[str]]:
    """The header and some rows, up to one that cannot be read; errors are for who reads all of it."""
    found = []
    with path.open("rb") as file, suppress(csv.Error, InputError, DataError):
        for record in itertools.islice(filter(None, _records(_TextLines(path, file), delimiter)), ROWS_LOOKED_AT):
            found.append(record)  # those before an error are kept
    return found


def _read_delimited(path: Path, delimiter: str, max_characters: int) -> Rows:
    with path.open("rb") as file:
        lines = _TextLines(path, file)
        reader = _records(lines, delimiter)
        while (header := _next_record(reader, lines, path, 0)) == []:  # blank lines, as between rows
            pass
        if not isinstance(header, list):
            raise DataError(f"{path} has no header line" if header is None else f"{path}, header: {header.problem}")
        _check_header(header, path, delimiter)
        kinds = number_kinds(_first_records(path, ";")[1:], len(header)) if delimiter == ";" else []
        row = 1
        while True:
            first = lines.number + 1  # a cell in quotes may run over several lines
            if (record := _next_record(reader, lines, path, row)) is None:
                return
            if not record:
                continue
            if isinstance(record, RowError):
                yield record
            elif len(record) != len(header):
                problem = f"{len(record)} cells, but the header has {len(header)} columns"
                yield RowError(problem, path, row, line=first)
            else:
                if kinds:
                    record = [as_kind(cell, kind) for cell, kind in zip(record, kinds, strict=True)]
                values = {name: cell or None for name, cell in zip(header, record, strict=True)}
                yield _sample(path, row, values, max_characters, first)
            row += 1


def _next_record(reader: Any, lines: _TextLines, path: Path, row: int) -> list[str] | RowError | None:
    first = lines.number + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        if lines.number > first:
            where = f"{path}, {row_in_words(row, first) if row else 'header'}"
            raise DataError(
                f"{where}: a quote that opens here is not closed as it should be ({error}), so the rows "
                "after it cannot be told apart; mend it"
            ) from None
        why = "a carriage return alone ends a line; save it with usual line ends" if "new-line" in str(error) else error
        return RowError(f"not readable as a delimited line ({why})", path, row, line=first)
    except InputError as error:
        if lines.number > first:
            raise lines.lost(error) from None
        return RowError(str(error), path, row, line=first)


class _TextLines:
    """Lines of a UTF-8 file, with or without a byte order mark."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.number = path, file, 0

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        self.number += 1
        try:
            line = next_line(self.file)
        except InputError as error:  # a quote may open in it
            raise self.lost(error) from None
        if not line:
            raise StopIteration
        try:
            return decode_line(line, self.number)
        except InputError as error:
            if line.count(b'"') % 2:  # a cell opens here and goes on
                raise self.lost(error) from None
            raise

    def lost(self, error: InputError) -> DataError:
        """What is wrong with this line makes all that follow doubtful."""
        return DataError(
            f"{self.path}, line {self.number}: {error}, so the rows after it cannot be told apart; mend it"
        )


def _check_header(header: list[str], path: Path, delimiter: str) -> None:
    if not header:
        raise DataError(f"{path} has no columns")
    if header[0].startswith("sep="):
        raise DataError(f"{path} begins with {header[0]!r}, which only Excel reads; take that line out")
    if "" in header:
        raise DataError(
            f"{path} has a column without a name (number {header.index('') + 1}); give it one (pandas writes its index "
            "so: to_csv(..., index=False) leaves it out)"
        )
    if any("\0" in name for name in header):
        raise DataError(f"{path} has zero bytes in its header, as UTF-16 has them; save it as UTF-8")
    doubled = [name for name, count in Counter(header).items() if count > 1]
    if doubled:
        raise DataError(f"{path} has the column {sorted(doubled)[0]!r} more than once; rename one of them")
    if len(header) == 1 and delimiter:
        for other in ";\t|,，":
            if other != delimiter and other in header[0]:
                raise DataError(
                    f"{path} seems to be divided by {other!r}, not by {delimiter!r}; save it with {delimiter!r}"
                )


def _read_json_lines(path: Path, max_characters: int) -> Rows:
    row = 1
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        for number in itertools.count(1):
            try:
                line = next_line(file)
                if not line:
                    return
                if not line.strip():
                    continue
                yield _sample(path, row, _parse_json_line(line, number), max_characters, number)
            except InputError as error:
                yield RowError(str(error), path, row, line=number)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path} is damaged after row {row - 1}: {error}; copy it again") from None
            row += 1


def _parse_json_line(line: bytes, number: int) -> dict[str, Any]:
    try:
        found = json.loads(decode_line(line, number), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"a JSON object expected, found {type(found).__name__}")
    if "" in found:
        raise InputError("a column has no name; give it one")
    return found


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {doubled!r} stands there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null for a missing value")


def _read_parquet(path: Path, max_characters: int) -> Rows:
    from pyarrow import ArrowException

    row = 0
    try:
        for values in parquet_rows(path, lambda names: _check_header(names, path, "")):
            row += 1
            yield _sample(path, row, values, max_characters)
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} cannot be read as parquet after row {row}: {' '.join(str(error).split())}") from None


def is_table(path: Path) -> bool:
    """Whether a file's name is that of a table."""
    return path.name.lower().endswith(SUFFIXES)


def class_folders(folder: Path) -> tuple[str, list[Path]]:
    """A key of FOLDERS_OF, of the kind with most files, and the folders inside that have such files in them."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path))
    counts = {column: [len(_media(path, column)) for path in inside] for column in FOLDERS_OF}
    column = max(counts, key=lambda column: sum(counts[column]))
    return column, [path for path, count in zip(inside, counts[column], strict=True) if count]


def _media(folder: Path, column: str) -> list[Path]:
    _, suffixes, _ = FOLDERS_OF[column]
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and not _is_hidden(path))


def _is_hidden(path: Path) -> bool:
    """Previews that a file manager keeps, and the like."""
    return path.name.startswith(".")


def _read_folder(folder: Path) -> Rows:
    """One row for each `CLASS/NAME.png`, or sound: its path and its label; what else lies there is a bad row."""
    column, found = class_folders(folder)
    if not found:
        raise DataError(f"{folder} has no folders with pictures or sounds in them; each class needs one")
    what, suffixes, read = FOLDERS_OF[column]
    classes = [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_hidden(path)]
    inside = [path for kind in classes for path in sorted(kind.iterdir()) if not _is_hidden(path)]
    for row, path in enumerate([*inside, *_media(folder, column)], 1):
        kind, name = path.parent, str(path.relative_to(folder))
        if kind == folder:
            yield RowError(f"the {what} {name} lies in no folder of a class", folder, row)
        elif path.is_dir():
            yield RowError(f"{name} is a folder within that of a class; only {what}s may lie there", folder, row)
        elif path.suffix.lower() not in suffixes:
            known = ", ".join(sorted(suffix.removeprefix(".") for suffix in read))
            yield RowError(f"{name} is no {what} of a known kind ({known})", folder, row)
        else:
            yield _sample(folder, row, {column: f"{kind.name}/{path.name}", "label": kind.name})
