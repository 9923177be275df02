"""Tables of rows, read one at a time: csv, tsv, jsonl, gzipped jsonl, parquet, or a folder of pictures for each class.

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
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from fusebert.errors import DataError, RowError
from fusebert.types import Sample

MAX_CELL_CHARACTERS = 200_000
MAX_LINE_BYTES = 8 * 2**20
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
HALF_CHARACTER = re.compile("[\ud800-\udfff]")
"""A lone surrogate, which no file can hold as UTF-8; JSON can spell it, and so can a file name."""
KINDS = "csv, tsv, jsonl, jsonl.gz, parquet, or a folder of pictures"

Rows = Iterator[Sample | RowError]


def read_table(path: Path, max_characters: int = MAX_CELL_CHARACTERS) -> Rows:
    """Rows of a table in order, in constant memory.

    Args:
        max_characters: of one cell; a row with a longer one cannot be used.

    Raises:
        DataError: the table as a whole cannot be read.
    """
    if not path.exists():
        raise DataError(f"the table {path} does not exist")
    if path.is_dir():
        return _read_folder(path)
    if path.stat().st_size == 0:
        raise DataError(f"the table {path} is empty")
    name = path.name.lower()
    if name.endswith(".csv"):
        return _read_delimited(path, ",", max_characters)
    if name.endswith(".tsv"):
        return _read_delimited(path, "\t", max_characters)
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return _read_json_lines(path, max_characters)
    if name.endswith(".parquet"):
        return _read_parquet(path, max_characters)
    raise DataError(f"{path} is not a table of a known kind ({KINDS})")


def _sample(
    path: Path, row: int, values: Mapping[str, Any], max_characters: int = MAX_CELL_CHARACTERS
) -> Sample | RowError:
    for column, value in values.items():
        if isinstance(value, str) and len(value) > max_characters:
            problem = f"the cell has {len(value):,} characters; at most {max_characters:,} are read"
            return RowError(problem, path, row, column)
        if any(isinstance(text, str) and HALF_CHARACTER.search(text) for text in (column, value, *_items(value))):
            return RowError("the text contains half a character (a lone surrogate)", path, row, column)
    return Sample(path, row, values, path if path.is_dir() else path.parent)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _read_delimited(path: Path, delimiter: str, max_characters: int) -> Rows:
    with path.open("rb") as file:
        csv.field_size_limit(MAX_LINE_BYTES)
        lines = _TextLines(path, file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _next_record(reader, lines, path, 1)
        if not isinstance(header, list):
            raise DataError(f"{path} has no header line" if header is None else str(header))
        _check_header(header, path, delimiter)
        while True:
            first = lines.number + 1  # a cell in quotes may run over several lines
            if (record := _next_record(reader, lines, path, first)) is None:
                return
            if isinstance(record, RowError):
                yield record
            elif record and len(record) != len(header):
                yield RowError(f"{len(record)} cells, but the header has {len(header)} columns", path, first)
            elif record:
                values = {name: cell or None for name, cell in zip(header, record, strict=True)}
                yield _sample(path, first, values, max_characters)


def _next_record(reader: Any, lines: _TextLines, path: Path, first: int) -> list[str] | RowError | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        if lines.number > first:
            raise DataError(
                f"{path}, row {first}: a quote that opens here is not closed as it should be ({error}), so the rows "
                "after it cannot be told apart; mend it"
            ) from None
        return RowError(f"not readable as a delimited line ({error})", path, first)
    except RowError as error:
        return error


class _TextLines:
    """Lines of a UTF-8 file, with or without a byte order mark; bytes that are not UTF-8 name their line."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file, self.number = path, file, 0

    def __iter__(self) -> _TextLines:
        return self

    def __next__(self) -> str:
        self.number += 1
        try:
            line = next_line(self.file, self.path, self.number)
        except RowError as error:  # a quote may open in it
            raise DataError(f"{error}, so the rows after it cannot be told apart; mend it") from None
        if not line:
            raise StopIteration
        return decode_line(line, self.path, self.number)


def next_line(file: BinaryIO | gzip.GzipFile, path: Path, number: int) -> bytes:
    """Line `number`, the next one of a file; nothing at its end.

    Raises:
        RowError: it is too long, and is passed over in constant memory.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    if len(line) <= MAX_LINE_BYTES:
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)
    raise RowError(f"the line has more than {MAX_LINE_BYTES >> 20} MiB", path, number)


def decode_line(line: bytes, path: Path, number: int) -> str:
    """Text of a line; a byte order mark before the first is dropped."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8", path, number
        ) from None


def _check_header(header: list[str], path: Path, delimiter: str) -> None:
    doubled = {name for name in header if header.count(name) > 1}
    if doubled:
        raise DataError(f"{path} has the column {sorted(doubled)[0]!r} more than once; rename one of them")
    if "" in header:
        raise DataError(f"{path} has a column without a name (number {header.index('') + 1})")
    if len(header) == 1:
        for other in ";\t|,":
            if other != delimiter and other in header[0]:
                raise DataError(
                    f"{path} seems to be divided by {other!r}, not by {delimiter!r}; save it with {delimiter!r}"
                )


def _read_json_lines(path: Path, max_characters: int) -> Rows:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as file:
        for number in itertools.count(1):
            try:
                line = next_line(file, path, number)
            except RowError as error:
                yield error
                continue
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path} is damaged after row {number - 1}: {error}") from None
            if not line:
                return
            if line.strip():
                yield _parse_json_line(path, number, line, max_characters)


def _parse_json_line(path: Path, number: int, line: bytes, max_characters: int) -> Sample | RowError:
    try:
        found = json.loads(
            decode_line(line, path, number), object_pairs_hook=_unique_keys, parse_constant=_refuse_constant
        )
    except RowError as error:
        return error
    except (ValueError, RecursionError) as error:
        return RowError(f"not a JSON object: {error}", path, number)
    if not isinstance(found, dict):
        return RowError(f"a JSON object expected, found {type(found).__name__}", path, number)
    return _sample(path, number, found, max_characters)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {doubled!r} stands there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null for a missing value")


def _read_parquet(path: Path, max_characters: int) -> Rows:
    import pyarrow
    from pyarrow import parquet

    row = 0
    try:
        file = parquet.ParquetFile(path)
        _check_header(file.schema_arrow.names, path, "")
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                row += 1
                yield _sample(path, row, values, max_characters)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet after row {row}: {' '.join(str(error).split())}") from None


def _read_folder(folder: Path) -> Rows:
    """One row for each picture `CLASS/NAME.png`: its path and its label."""
    row = 0
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        for picture in sorted(path for path in kind.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES):
            row += 1
            yield _sample(folder, row, {"image": f"{kind.name}/{picture.name}", "label": kind.name})
    if row == 0:
        raise DataError(f"{folder} has no folders with pictures in them; each class needs one")


def rows_from_memory(rows: Any) -> Rows:
    """Rows a program hands over: one dict, a list of dicts (or Samples), or a pandas DataFrame.

    Media paths of dicts may lie anywhere.
    """
    if hasattr(rows, "to_dict") and not isinstance(rows, Mapping):
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
    for number, values in enumerate([rows] if isinstance(rows, Mapping) else rows, 1):
        yield values if isinstance(values, Sample) else Sample(Path("(memory)"), number, values, None)
