"""Media files of a table, read within bounds and decoded once."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fusebert.errors import InputError
from fusebert.modalities.base import media_path, present
from fusebert.modalities.values import as_list, content_key, looks_like_python_list
from fusebert.types import is_given

READ_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
READ_SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
PICTURE_SUFFIXES = (*READ_PICTURES, ".heic", ".heif", ".avif", ".jxl")
SOUND_SUFFIXES = (*READ_SOUNDS, ".m4a", ".aac", ".amr", ".wma", ".caf", ".au")
"""Those that are not read are said of each row: better than to pass over the column."""
MEDIA_SUFFIXES = (*PICTURE_SUFFIXES, *SOUND_SUFFIXES, ".mp4")
"""Of names that are no texts, whether such files are read or not."""
SOUND_STARTS = re.compile(rb"RIFF....WAVE|FORM....AIF|fLaC|OggS|ID3|\xff[\xe2-\xfb]", re.DOTALL)
"""Of the kinds of sound files that are read."""
CACHE_BYTES = 512 * 2**20
MOST_IN_A_CELL = 32


def files_in(values: Mapping[str, Any], columns: Sequence[str]) -> list[tuple[int, Any]]:
    """(place among `columns`, file) of each file that a row names or holds. Raises InputError."""
    found = []
    for place, value in present(values, columns):
        if looks_like_python_list(value):
            raise InputError(f'a list as Python writes it, {value!r:.60}; write it as JSON: ["a.png", "b.png"]')
        files = files_of(value)
        if len(files) > MOST_IN_A_CELL:
            raise InputError(f"{len(files)} files in one cell; at most {MOST_IN_A_CELL} are read")
        found += [(place, file) for file in files]
    return found


def files_of(cell: Any) -> list[Any]:
    """One, or those that a list has, also one in JSON, as a csv holds it."""
    several = as_list(cell)
    if several is None or any(isinstance(one, int | float) for one in several):  # samples are no files
        several = [cell]
    return [file for file in several if is_given(file)]


def media_of(value: Any) -> Any:
    """The bytes, or else the path, of `{"bytes": ..., "path": ...}`, as datasets has a file; others, such as
    sound that it has decoded, as they are."""
    is_file = isinstance(value, Mapping) and value.keys() & {"bytes", "path"} and value.get("array") is None
    if not is_file:
        return value
    return value.get("path") if value.get("bytes") is None else value["bytes"]


def contents_of(cell: Any, root: Path | None) -> list[str]:
    """A digest of the bytes of each file that a cell names or holds, wherever it lies; a cell's files have no order.
    Raises InputError."""
    return sorted(
        _digest(str(file), root) if isinstance(file, str | Path) else content_key(file)
        for file in map(media_of, files_of(cell))
    )


def _digest(value: str, root: Path | None) -> str:
    """What `content_key` gives of the bytes, a piece at a time: the file may be too large to be used."""
    try:
        with media_path(value, root).open("rb") as file:
            return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    except OSError as error:
        raise InputError(f"{value!r} cannot be read: {error.strerror}") from None


def encoded_media(values: Sequence[Any]) -> list[bytes]:
    """The files that stand in a column itself, as bytes or as `{"bytes": ...}`, if it is a column of such."""
    if not all(isinstance(value, bytes) or (isinstance(value, Mapping) and "bytes" in value) for value in values):
        return []
    found = [value.get("bytes") if isinstance(value, Mapping) else value for value in values]
    return [one for one in found if isinstance(one, bytes)]


def are_sounds(files: Sequence[bytes]) -> bool:
    """Whether most of them begin as a sound file does."""
    return 2 * sum(SOUND_STARTS.match(data) is not None for data in files) > len(files)


class DecodedFiles:
    """What files were decoded to; when that is too much, what was not asked for the longest goes first.

    A file that has changed is read again.

    Attributes:
        contents: a digest of each file that was read, by its path; None where nobody asks for them, since they grow.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] | None = None
        self._kept: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()
        self._bytes = 0

    def read(self, value: str, root: Path | None, most_bytes: int, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
        """The decoded file that a column names; see `media_path`.

        Raises:
            InputError: it is not there, cannot be read, has more than `most_bytes`, or `decode` refuses it.
        """
        path = media_path(value, root)
        try:
            found = path.stat()
            if found.st_size > most_bytes:
                raise InputError(f"{value!r} has more than {most_bytes >> 20} MiB")
            key = (str(path.absolute()), found.st_mtime_ns, found.st_size)
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            data = path.read_bytes()
            if self.contents is not None:
                self.contents[str(path)] = hashlib.blake2b(data, digest_size=16).digest()
        except OSError as error:
            raise InputError(f"{value!r} cannot be read: {error.strerror}") from None
        decoded = self._kept[key] = decode(data)
        self._bytes += decoded.nbytes
        while self._bytes > CACHE_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return decoded
