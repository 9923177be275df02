"""Single raw values of a row: missing ones, numbers, dates and names."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from fusebert.data.decimals import SheetNumber
from fusebert.errors import InputError

MISSING = ("", "na", "n/a", "nan", "null", "none", "-", "?")
"""What people write for a value that is not there, in any case."""
MAX_MAGNITUDE = 1e100
LONGEST_CATEGORY = 200
FEW_SHARE = 0.05
LIST = re.compile(r"\s*\[.*\]\s*", re.S)
PYTHON_LIST = re.compile(r"\s*\[[\s\[{]*'.*\]\s*", re.S)
"""As Python writes one, and so pandas into a csv: no JSON, which has double quotes."""
WHOLE = re.compile(r"([+-]?\d+)\.(?!000\Z)0+")
"""As pandas writes whole numbers into a csv where some are missing; 1.000 may be a thousand."""
LONGEST_NUMBER = 64
"""Characters of text that says a number or a date."""
FAR, TAIL = 10, 0.02
"""Ranges between the quantiles TAIL and 1 - TAIL, beyond which a number is rather a slip than one like the others."""
UNITS = (
    "元 块 角 分 折 星 岁 个 件 次 条 人 台 瓶 盒 包 袋 年 月 天 日 时 小时 分钟 秒 度 "
    "克 千克 毫克 斤 公斤 吨 米 千米 厘米 毫米 里 公里 平方米 平米 升 毫升"
)
NUMBER_LIKE = re.compile(
    r"[-+−－]?\s*[$€£¥￥]?\s*[-+−－]?\d[\d.,．，' \u00a0\u202f]*+\s*+"
    rf"([%％‰$€£¥￥]|(?<=\s)[a-zA-Z]{{1,3}}|[百千万亿]{{0,2}}({UNITS.replace(' ', '|')})?\+?)"
)
"""Also 1,234 and 12 % and €5, and what Chinese writes behind a number: 1.1万, 147克, 12％."""
YEAR_FIRST = re.compile(
    r"(\d{4})(?:([-/.])(\d{1,2})\2(\d{1,2})|年(\d{1,2})月(\d{1,2})日)(?:[T ](\d{1,2}):(\d\d)(?::(\d\d))?)?", re.ASCII
)
EIGHT_DIGITS = re.compile(r"\d{8}", re.ASCII)
FOURTEEN_DIGITS, YEARS = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", re.ASCII), range(1900, 2101)


def is_missing(raw: Any) -> bool:
    """Nothing, not a number, or one of the ways to write that."""
    return (
        raw is None
        or (isinstance(raw, float) and math.isnan(raw))
        or (isinstance(raw, str) and raw.strip().casefold() in MISSING)
    )


def content_key(raw: Any) -> str:
    """What a value holds, in words; of a picture or a sound, however a program holds it, a digest."""
    if isinstance(raw, dict) and raw.get("bytes") is not None:
        return content_key(raw["bytes"])
    if isinstance(raw, dict) and raw.get("array") is not None:
        return f"{content_key(np.asarray(raw['array']))} {raw.get('sampling_rate')}"
    if isinstance(raw, bytes):
        return hashlib.blake2b(raw, digest_size=16).hexdigest()
    if hasattr(raw, "tobytes") and not isinstance(raw, np.generic):  # an array, or Pillow's picture
        shape = [getattr(raw, name, None) for name in ("mode", "size", "dtype", "shape")]
        return content_key(repr(shape).encode() + raw.tobytes())
    if isinstance(raw, list | tuple):
        return repr([content_key(one) for one in raw])
    return "" if raw is None or (isinstance(raw, float) and math.isnan(raw)) else str(raw)


def are_few(different: int, values: int) -> bool:
    """Whether so few of a column's values differ that they are rather names of a few things than texts."""
    return different <= max(2, FEW_SHARE * values)


def as_list(raw: Any) -> list[Any] | None:
    """A list, or that which JSON text spells, as a csv holds one; None for anything else."""
    if isinstance(raw, str) and LIST.fullmatch(raw):
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, list) else None
    return raw if isinstance(raw, list) else None


def looks_like_python_list(raw: Any) -> bool:
    """Whether text spells a list such as ['a', 'b'], which `as_list` does not read."""
    return isinstance(raw, str) and PYTHON_LIST.fullmatch(raw) is not None


def looks_like_number(raw: Any) -> bool:
    """Whether text says a number, also in ways that `as_number` does not read, such as 1,234 or 12 % or €5 or 1.1万."""
    if not isinstance(raw, str) or len(text := raw.strip()) > LONGEST_NUMBER:
        return False
    return NUMBER_LIKE.fullmatch(text) is not None


def as_number(raw: Any) -> float:
    """A finite number. Raises InputError."""
    if isinstance(raw, bool):
        raise InputError(f"{raw!r} is not a number; write 1 or 0")
    try:
        value = float(raw) if not isinstance(raw, str) or "_" not in raw else math.nan  # Python reads 2023_01
    except (TypeError, ValueError, OverflowError):
        hint = "; write it as 1234.5" if looks_like_number(raw) else ""
        raise InputError(f"{raw!r:.60} is not a number{hint}") from None
    if not math.isfinite(value) or abs(value) > MAX_MAGNITUDE:
        raise InputError(f"{raw!r:.60} is not a finite number up to {MAX_MAGNITUDE:g}")
    return value


def without_slips(numbers: np.ndarray) -> np.ndarray:
    """Those of float[N] that do not lie far away from all others: FAR times as far as nearly all of them reach.

    A value that more than half of them have says nothing of how far the others usually lie apart.
    """
    different, counts = np.unique(numbers, return_counts=True)
    usual = different[counts > len(numbers) / 2]
    others = numbers[~np.isin(numbers, usual)]
    if not len(others):
        return numbers
    low, high = np.quantile(others, (TAIL, 1 - TAIL))
    low, high = min([low, *usual]), max([high, *usual])
    room = FAR * (high - low) or math.inf
    return np.asarray(numbers[(numbers >= low - room) & (numbers <= high + room)])


def as_date(raw: Any) -> datetime | None:
    """A day or a moment in ISO 8601, such as 2024-05-31 or 2024-05-31T12:00, in UTC where it names no zone; also with
    the year first as in 2024/5/31 10:30, 2024.5.31, 2024年5月31日, and in 14 digits. None for anything else."""
    try:
        found = _as_written(raw)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def names_zone(raw: Any) -> bool | None:
    """Whether a day or a moment names its time zone; None for what is neither."""
    try:
        return _as_written(raw).tzinfo is not None
    except ValueError:
        return None


def mixed_zones(named: Counter[bool | None]) -> str | None:
    """In words: some times name a zone, and others do not; None where all are alike.

    Args:
        named: how many times there are of each answer of `names_zone`.
    """
    if not (named[True] and named[False]):
        return None
    return (
        f"some times name a time zone ({named[True]:,}) and others do not ({named[False]:,}); these count as UTC and "
        "may be hours off; write the zone with each"
    )


def is_eight_digit_day(raw: Any) -> bool:
    """Whether eight digits say a day between 1900 and 2100, such as 20240531. By chance one number in thirty
    does so."""
    is_scalar = isinstance(raw, str | int | float) and not isinstance(raw, bool)
    if not is_scalar or not EIGHT_DIGITS.fullmatch(without_fraction(raw)):
        return False
    day = as_date(raw)
    return day is not None and day.year in YEARS


def is_moment(raw: Any) -> bool:
    """Whether 14 digits say a second between 1900 and 2100, such as 20240531103000, which is no number then."""
    is_scalar = isinstance(raw, str | int | float) and not isinstance(raw, bool)
    return is_scalar and FOURTEEN_DIGITS.fullmatch(without_fraction(raw)) is not None and as_date(raw) is not None


def _as_written(raw: Any) -> datetime:
    """A day or a moment, in its own zone. Raises ValueError."""
    text = raw.isoformat() if isinstance(raw, date) else without_fraction(raw)
    if len(text) > LONGEST_NUMBER:
        raise ValueError(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return _year_first(text)


def _year_first(text: str) -> datetime:
    """What is not ISO 8601 but can be read in one way only. Raises ValueError."""
    found = FOURTEEN_DIGITS.fullmatch(text)
    if (found and int(found[1]) not in YEARS) or not (found := found or YEAR_FIRST.fullmatch(text)):
        raise ValueError(text)
    parts = [int(part) for part in found.groups() if part and part.isdigit()]
    year, month, day, hour, minute, second = (parts + [0] * 3)[:6]
    return datetime(year, month, day, hour, minute, second)


def as_category(raw: Any) -> str:
    """A name: text without outer spaces, true and false, whole numbers without a fraction, also where text spells them
    with one (`2.0`), or a spreadsheet with thousands (`data/decimals.py`). Raises InputError."""
    if isinstance(raw, list | dict):
        raise InputError(f"one value expected, found {type(raw).__name__}")
    name = without_fraction(raw)
    if len(name) > LONGEST_CATEGORY:
        raise InputError(f"a category of {len(name):,} characters; is this column text?")
    if name in ("True", "False", "TRUE", "FALSE"):
        return name.lower()
    return name


def without_fraction(raw: Any) -> str:
    """As text without outer spaces, a whole number without its fraction."""
    text = str(raw).strip()
    if isinstance(raw, float | SheetNumber):
        with suppress(ValueError):
            text = str(int(float(raw))) if float(raw).is_integer() else text
        return text
    return whole[1] if (whole := WHOLE.fullmatch(text)) else text
