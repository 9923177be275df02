"""Lines of a text file of UTF-8: bounded, and decoded with words for what they are written in else."""

from __future__ import annotations

import codecs
import gzip
import re
from contextlib import suppress
from typing import BinaryIO

from fusebert.errors import InputError

MAX_LINE_BYTES = 8 * 2**20
"""Of a text table; a longer line is a bad row."""
CHINESE_PAIRS = re.compile(b"(?:[\xb0-\xf7][\xa1-\xfe]){2}")
"""Two characters in a row as GB 2312 has them; European text has single letters beyond ASCII."""


def next_line(file: BinaryIO | gzip.GzipFile) -> bytes:
    """The next line of a file; nothing at its end.

    Raises:
        InputError: it is too long, and is passed over in constant memory.
    """
    line = file.readline(MAX_LINE_BYTES + 1)
    if len(line) <= MAX_LINE_BYTES:
        return line
    while line and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)
    raise InputError(f"the line has more than {MAX_LINE_BYTES >> 20} MiB")


def decode_line(line: bytes, number: int) -> str:
    """Text of line `number`; byte order marks before the first are dropped. Raises InputError."""
    try:
        return line.decode().lstrip("\ufeff") if number == 1 else line.decode()
    except UnicodeDecodeError as error:
        how = "save the file as UTF-8"
        if other := _encoding_of(line, number):
            how = f"it seems to be {other}: iconv -f {other} -t UTF-8 IN > OUT"
        raise InputError(f"byte {error.start + 1} of the line is not UTF-8; {how}") from None


def _encoding_of(line: bytes, number: int) -> str | None:
    """What a line that is not UTF-8 seems to be written in."""
    if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    with suppress(UnicodeDecodeError):
        line.decode("gb18030")
        return "GB18030" if CHINESE_PAIRS.search(line) else None
    return None
