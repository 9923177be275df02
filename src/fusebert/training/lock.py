"""One training at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fusebert.errors import UsageError

_held: dict[Path, int] = {}


def lock(folder: Path) -> None:
    """Have `folder` to oneself until `unlocking` ends, or this process does, however that comes about; it is made.

    Raises:
        UsageError: another training writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (place := folder.resolve()) in _held:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise UsageError(f"another training writes in {folder}; wait for its end, or choose another --output") from None
    except OSError:  # a disk that knows no locks
        os.close(handle)
        return
    _held[place] = handle


@contextmanager
def unlocking() -> Iterator[None]:
    """Give up at the end what was locked within."""
    before = set(_held)
    try:
        yield
    finally:
        for place in set(_held) - before:
            os.close(_held.pop(place))
