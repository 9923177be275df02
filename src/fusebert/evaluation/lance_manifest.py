"""What a table of LanceDB says of where its files lie, read before the table is: a copy without data of its own names
other folders, or buckets on the network, and to open it is to read there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fusebert.errors import ModelError

END, MAGIC = 16, b"LANC"
"""Bytes of the last part, which begins with the place of the message and ends with the magic word."""
BASE_PATHS = 18
"""The field of the message (`Manifest` in Lance's table.proto) that names other places."""


def refuse_other_places(store: Path) -> None:
    """Raise ModelError where a table in `store` reads files elsewhere, or cannot be understood."""
    for path in store.rglob("*.manifest"):
        try:
            data = path.read_bytes()
            start = int.from_bytes(data[-END : 8 - END], "little")
            length = int.from_bytes(data[start : start + 4], "little")
            message = data[start + 4 : start + 4 + length]
            if data[-len(MAGIC) :] != MAGIC or not message or len(message) < length:
                raise ValueError
            numbers = set(_fields(message))
        except (IndexError, ValueError, OSError):
            raise ModelError(f"{path} is damaged; index the table again") from None
        if BASE_PATHS in numbers:
            raise ModelError(f"{path} names files outside the index, which are not read; index the table again")


def _fields(message: bytes) -> Iterator[int]:
    """The numbers of a message's fields. Raises ValueError, or IndexError where it ends too early."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        yield key >> 3
        match key & 7:  # how protocol buffers write it
            case 0:
                _, place = _varint(message, place)
            case 1:
                place += 8
            case 2:
                length, place = _varint(message, place)
                place += length
            case 5:
                place += 4
            case kind:
                raise ValueError(kind)
    if place > len(message):
        raise IndexError(place)


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The number that begins at a place, seven bits a byte, and the place after it."""
    number = shift = 0
    while True:
        byte = message[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place
