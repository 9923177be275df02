"""Numbers of spreadsheets: whether a comma or a point begins the fraction, and the other sign divides thousands.

Each column is read as those of its numbers say that can be read in one way only, such as 12,5 or 1.234,50; a column of
which none does as the other columns are. Where that is not settled, 1.234 is no number, rather than a wrong one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

NEARLY_ALL = 0.95
"""Share of a column's cells that have to be numbers, for it to say how those of other columns are written."""


def _grammar(fraction: str, thousands: str) -> re.Pattern[str]:
    groups = rf"[1-9]\d{{0,2}}(?:{re.escape(thousands)}\d{{3}})+"
    return re.compile(rf"[+-]?(?:\d+|{groups})(?:{re.escape(fraction)}\d+)?")


COMMA, POINT = _grammar(",", "."), _grammar(".", ",")


def _read(cell: str, grammar: re.Pattern[str], plain: str) -> float:
    if not grammar.fullmatch(cell):  # in a row beyond those that were looked at
        raise ValueError(f"{cell} is not written as the other numbers")
    return float(plain)


class CommaNumber(str):
    """A cell such as `1.234,50`: 1234.5 for a column of numbers, and for others the text that it is."""

    __slots__ = ()

    def __float__(self) -> float:
        return _read(self, COMMA, self.replace(".", "").replace(",", "."))


class PointNumber(str):
    """A cell such as `1,234.50`."""

    __slots__ = ()

    def __float__(self) -> float:
        return _read(self, POINT, self.replace(",", ""))


class UnclearNumber(str):
    """A cell such as `1.234` where it may be either."""

    __slots__ = ()

    def __float__(self) -> float:
        raise ValueError(f"{self} may be a fraction or thousands")


SheetNumber = CommaNumber | PointNumber | UnclearNumber
"""A cell that says by itself which number it is, or that this is unclear."""


def number_kinds(records: Iterable[list[str]], columns: int) -> list[type[str]]:
    """How each column's numbers are to be read, by some of its rows."""
    commas, points, numbers, given = ([0] * columns for _ in range(4))
    for record in records:
        for place, cell in enumerate(record[:columns]):
            by_comma, by_point = COMMA.fullmatch(cell), POINT.fullmatch(cell)
            commas[place] += bool(by_comma and not by_point)
            points[place] += bool(by_point and not by_comma)
            numbers[place] += bool(by_comma or by_point)
            given[place] += bool(cell)
    speaks = [found >= NEARLY_ALL * of for found, of in zip(numbers, given, strict=True)]
    others = tuple(any(found[place] for place in range(columns) if speaks[place]) for found in (commas, points))
    kinds: dict[tuple[bool, ...], type[str]] = {(True, False): CommaNumber, (False, True): PointNumber}
    own = [(bool(comma), bool(point)) for comma, point in zip(commas, points, strict=True)]
    return [kinds.get(one if any(one) else others, UnclearNumber) for one in own]


def as_plain(value: Any) -> Any:
    """The number of a cell that is marked as one; other values, and a cell that nobody can read, as they are."""
    if isinstance(value, SheetNumber):
        with suppress(ValueError):
            return float(value)
    return value


def as_kind(cell: str, kind: type[str]) -> str:
    """The cell, marked as a number of that kind where it may be one with a comma or a point."""
    has_sign = "," in cell or "." in cell
    return kind(cell) if has_sign and (COMMA.fullmatch(cell) or POINT.fullmatch(cell)) else cell
