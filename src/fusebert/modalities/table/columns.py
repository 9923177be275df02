"""One column of a table: what its values are, and how each becomes numbers. Fitted on training rows only."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal

import numpy as np

from fusebert.errors import InputError
from fusebert.modalities.values import (
    are_few,
    as_category,
    as_date,
    as_number,
    is_eight_digit_day,
    is_missing,
    is_moment,
    without_fraction,
    without_slips,
)

Kind = Literal["number", "date", "category"]
DATE_EXTRAS = 6
"""Numbers beside a date's bins: where in the year, the week and the day it lies."""
VERSION = re.compile(r"\d+(\.\d+)+\.0|\d+(\.\d+){3,}")
"""Of a program: 2023.4.0, 2023.4.12.1; no date has a zero alone or so many parts."""
CODE, PADDED = re.compile(r"0\d{2,}"), re.compile(r"0+[1-9]\d*", re.ASCII)
KEY = re.compile(
    r"(?i:.*编号|.*代码|邮编|邮政编码|(.*[\W_\u4e00-\u9fff])?(id|code|zip|zip_?code|post_?code)|id[\W_].*"
    r"|.*(user|customer|client|account|product|item|article|order|shop|store|session)_?id)|.*[a-z](ID|Id|Code)"
)
"""Names of columns whose whole numbers name something."""
BOOLEANS = {"0": "false", "1": "true"}
TRUTHS = {"false", "true"}
LOOKED_AT = 1000
"""Values of a column, about, to see whether words spoil its numbers."""
LONGEST_WORD = 20
"""Of characters that may say that there is no value."""
LEAST_NAMES = 20
"""Fewer may well all differ where more would recur."""
ANY, MISSING = 0, 1
"""Codes of a value that has none of its own, and of none."""


@dataclass(frozen=True)
class Column:
    """What the training rows say of a column.

    Args:
        kind: of its values.
        edges: of a number's (or a date's days') bins, rising; the encoding is piecewise linear between them.
        values: categories with a code of their own, the most frequent first.
    """

    kind: Kind
    edges: list[float]
    values: list[str]

    @property
    def codes(self) -> int:
        """Codes it needs: for any value, for a missing one, and for each category."""
        return 2 + len(self.values)

    @cached_property
    def _bins(self) -> tuple[np.ndarray, np.ndarray]:
        """float[bins] each: where the bins of a number start, and how wide they are."""
        edges = np.array(self.edges)
        return edges[:-1], np.diff(edges)

    @property
    def spellings(self) -> Iterable[list[str]]:
        """Its categories, those together that differ in case only."""
        alike: dict[str, list[str]] = {}
        for name in self.values:
            alike.setdefault(name.casefold(), []).append(name)
        return alike.values()

    @cached_property
    def _is_boolean(self) -> bool:
        return {*self.values} <= TRUTHS

    @cached_property
    def _places(self) -> dict[str, int]:
        """The code of each category."""
        return {name: 2 + place for place, name in enumerate(self.values)}

    @cached_property
    def _without_zeros(self) -> dict[str, str]:
        """Names of digits that begin with zeros, by what a spreadsheet leaves of them, where that is no other's."""
        padded = [name for name in self.values if PADDED.fullmatch(name)]
        bare = Counter(name.lstrip("0") for name in [*padded, *self.values])  # a name of its own counts once more
        return {name.lstrip("0"): name for name in padded if bare[name.lstrip("0")] == 2}

    def read(self, raw: Any, width: int) -> tuple[int, np.ndarray]:
        """A raw value -> its code in [0, codes) and its encoding float32[width], zeros where there is none.

        Raises:
            InputError: it is not of this column's kind.
        """
        encoded = np.zeros(width, dtype=np.float32)
        if is_missing(raw):
            return MISSING, encoded
        if self.kind == "category":
            return self._places.get(self._name(raw), ANY), encoded
        number, when = _number(raw, self.kind)
        starts, widths = self._bins
        steps = np.minimum(np.maximum((number - starts) / widths, 0), 1)
        encoded[: len(steps)] = steps
        if when is not None:
            encoded[-DATE_EXTRAS:] = _cycles(when)
        return ANY, encoded

    def is_far(self, raw: Any) -> bool:
        """Whether a number, or a day, of the training rows was left out of the bins."""
        try:
            number, _ = _number(raw, self.kind)
        except InputError:
            return False
        return not self.edges[0] <= number <= self.edges[-1]

    def is_known(self, raw: Any) -> bool:
        """Whether it says something that the training rows say, too; numbers, dates and what cannot be read do."""
        if self.kind != "category" or is_missing(raw):
            return True
        try:
            return self._name(raw) in self._places
        except InputError:  # the row is reported where it is prepared
            return True

    def _name(self, raw: Any) -> str:
        """A category; 0 and 1 stand for false and true."""
        name = as_category(raw)
        if self._is_boolean:
            return BOOLEANS.get(name, name)
        return self._without_zeros.get(name, name)


def fit_column(values: Sequence[Any], bins: int, max_categories: int, as_categories: bool) -> Column:
    """What the training rows say a column is.

    Args:
        values: of the training rows, missing ones too.
        bins: at most so many for a number, cut at quantiles.
        as_categories: numbers here are names (a region's code, say).
    """
    present = [value for value in values if not is_missing(value)]
    kind = "category" if as_categories else kind_of(present)
    if kind == "category":
        names = [name for value in present if (name := _name(value)) is not None]
        different = {*names}
        if different & TRUTHS and different <= TRUTHS | BOOLEANS.keys():
            names = [BOOLEANS.get(name, name) for name in names]
        counts = Counter(names)
        ordered = sorted(counts, key=lambda name: (-counts[name], name))
        return Column("category", [], ordered[:max_categories])
    read = []
    for value in present:
        with suppress(InputError):  # such rows are reported by the check of every row
            read.append(_number(value, kind)[0])
    numbers = without_slips(np.array(read))  # one would stretch a bin until all of it looks alike
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, bins + 1)))
    if len(edges) <= bins:  # where most values are one, quantiles fall together; those of the different values are left
        edges = np.unique([*edges, *np.quantile(np.unique(numbers), np.linspace(0, 1, bins + 2 - len(edges)))])
    if len(edges) < 2:
        half = max(0.5, abs(edges[0]) * 1e-6)
        edges = np.array([edges[0] - half, edges[0] + half])
    return Column(kind, edges.tolist(), [])


def kind_of(present: Sequence[Any], share: float = 0.95) -> Kind:
    """Numbers or dates where nearly all values are; else categories. Versions are names, although most may be read as
    dates (2023.4.12): those that no date is (2023.4.0) tell."""
    if not present or all(isinstance(value, bool) for value in present):
        return "category"
    if any(sum(map(is_one, present)) >= share * len(present) for is_one in (is_moment, is_eight_digit_day)):
        return "date"
    if sum(map(_is_number, present)) >= share * len(present):
        return "number"
    if sum(map(_is_date, present)) < share * len(present):
        return "category"
    return "category" if any(map(is_version, present)) else "date"


def is_version(value: Any) -> bool:
    """Whether it is a version that no date is."""
    return isinstance(value, str) and VERSION.fullmatch(value.strip()) is not None


def spoilt(present: Sequence[Any]) -> str | None:
    """In words: most values are numbers (or dates) and many differ, but so many are none that all count as categories;
    None of other columns."""
    present = present[:: max(1, len(present) // LOOKED_AT)]
    if kind_of(present) != "category":
        return None
    for kind, is_one in (("numbers", _is_number), ("dates", _is_date)):
        ones = {str(value) for value in present if is_one(value)}
        others = Counter(str(value) for value in present if not is_one(value))
        if kind == "dates" and any(map(is_version, others)):
            continue
        if 2 * others.total() < len(present) and not are_few(len(ones), len(present) - others.total()):
            word = others.most_common(1)[0][0][:40]
            return (
                f"{others.total()} of {len(present)} are no {kind}, such as {word!r}; "
                f"table.missing={shlex.quote(word)} takes such a word for a missing value"
            )
    return None


def numbered(column: str, present: Sequence[Any]) -> str | None:
    """In words: why a column's numbers are probably names of something; None of others."""
    codes = [value for value in present if isinstance(value, str) and CODE.fullmatch(value.strip())]
    if codes:
        return f"({len(codes)} begin with zeros, such as {codes[0].strip()})"
    if KEY.fullmatch(column.strip()) and all(without_fraction(value).isdecimal() for value in present):
        return "(by its name)"
    return None


def seldom_recurring(present: Sequence[Any], are_names: bool) -> str | None:
    """In words: more than half of the values are names that occur once, and so about that share of those of other rows
    will be unknown (Good 1953); None of other columns.

    Args:
        are_names: the user says so; else they may be numbers or dates in another way of writing.
    """
    counts = Counter(name for value in present if (name := _name(value)) is not None)
    once = sum(count == 1 for count in counts.values())
    if counts.total() < LEAST_NAMES or 2 * once <= counts.total():
        return None
    written = "" if are_names else "; write numbers as 1234.5, without a unit, and dates as 2024-05-31, or"
    return (
        f"{len(counts):,} different names in {counts.total():,} rows, so most of those in other rows will be unknown"
        f"{written or '; you may'}"
    )


def far_values(column: Column, present: Sequence[Any]) -> str | None:
    """In words: values of the training rows that lie far away from all others; None where none do."""
    far = [value for value in present if column.is_far(value)]
    if not far:
        return None
    return (
        f"{len(far)} of {len(present)} {column.kind}s lie far away from the others, such as {far[0]}, and count as the "
        f"nearest of these; table.missing={shlex.quote(str(far[0]))} takes such a value for a missing one"
    )


def _number(raw: Any, kind: Kind) -> tuple[float, datetime | None]:
    """A number; of a date its days since 1970, and the moment. Raises InputError."""
    if kind == "number":
        try:
            return as_number(raw), None
        except InputError as error:
            raise InputError(f"{error}{_maybe_nothing(raw)}") from None
    when = as_date(raw)
    if when is None:
        raise InputError(f"{raw!r} is not a date such as 2024-05-31{_maybe_nothing(raw)}")
    return when.timestamp() / 86_400, when


def _maybe_nothing(raw: Any) -> str:
    """What to do about a word, or a row of digits, that may say that there is no value."""
    word = str(raw).strip()
    if len(word) > LONGEST_WORD or not word.isalnum():
        return ""
    return f"; table.missing={shlex.quote(word)} in training takes it for no value"


def _name(value: Any) -> str | None:
    """A category; None for what is none, whose row is reported by the check of every row."""
    try:
        return as_category(value)
    except InputError:
        return None


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | list | dict):
        return False
    try:
        as_number(value)
    except InputError:
        return False
    return True


def _is_date(value: Any) -> bool:
    return isinstance(value, str | date) and as_date(value) is not None


def _cycles(when: datetime) -> np.ndarray:
    """Where in the year, the week and the day a moment lies, as sines and cosines: float[DATE_EXTRAS]."""
    hours = when.hour + when.minute / 60 + when.second / 3600
    phases = 2 * np.pi * np.array([when.timetuple().tm_yday / 365.25, when.weekday() / 7, hours / 24])
    return np.concatenate([np.sin(phases), np.cos(phases)])
