"""The SQLite file in which a run of corpus preparation keeps what it knows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusebert.errors import DataError


def open_state(path: Path, cache_bytes: int) -> sqlite3.Connection:
    """The state, locked against every other run until it is closed."""
    database = sqlite3.connect(path, timeout=0, isolation_level="DEFERRED")
    database.execute(f"PRAGMA cache_size = -{max(2**22, cache_bytes) >> 10}")
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    database.commit()
    return database


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """SQLite's errors, in words."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DataError(f"{path.parent} is being written by another run; wait until it has ended") from None
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise DataError(f"{path} cannot be written ({error}); make room and go on with --resume") from None
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DataError(f"{path} is damaged ({error}); remove {path.parent} and start again") from None
        raise DataError(f"{path} cannot be used ({error}); mend that and go on with --resume") from None


def file_state(source: str) -> tuple[str, int, int]:
    """Name, size, and when it was changed last; a data set of the Hub has but a name."""
    if not Path(source).is_file():
        return source, 0, 0
    found = Path(source).stat()
    return source, found.st_size, found.st_mtime_ns
