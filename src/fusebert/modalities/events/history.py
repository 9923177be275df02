"""A user's events as they stand in a row -> checked events in order of time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from typing import Any

from fusebert.errors import InputError
from fusebert.modalities.text.processor import plain_text
from fusebert.modalities.values import as_category, as_date, as_number, is_missing, is_moment, names_zone

MOST_EVENTS, MOST_CHARACTERS = 100_000, 32 << 20
"""Of one row: more is refused before it is looked at."""
FIELDS = ("item", "type", "time", "value", "text")
PLAIN = "event"
"""The type of an event that names none."""
SHOWN = 10
"""Items of a history that are printed, the newest."""
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 1e11
"""Where the year 1 begins, and in the year 5138; what lies beyond is a time in milliseconds, or not a time."""
EIGHT_DIGITS, YEARS = re.compile("[0-9]{8}"), range(1900, 2101)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a user did with an item.

    Args:
        seconds: since 1970 in UTC, or None where histories have no times.
        value: such as a rating or a price; None where it has none.
        text: such as a comment; None where it has none.
        zoned: whether its time names a zone; None where it has no time, or one that counts seconds.
    """

    item: str
    type: str
    seconds: float | None
    value: float | None
    text: str | None = None
    zoned: bool | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Past:
    """What of someone's events, the oldest first, came before one of them; nothing is copied."""

    events: Sequence[Event]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Event]:
        return islice(self.events, self.count)

    def __str__(self) -> str:
        items = [event.item for event in self]
        return ", ".join([*(["..."] if len(items) > SHOWN else []), *items[-SHOWN:]])

    def __repr__(self) -> str:
        return f"Past({self.count}, {list(self)[-1:]})"


def read_history(raw: Any) -> list[Event]:
    """The events of a row, the oldest first; those of the same time stay in the order given.

    Args:
        raw: a list, or JSON text of one; each event is the name of an item, or has `item` and, if known, `type`
            (click, browse, comment, share, rate, buy, ...), `time` (ISO 8601, a date or datetime of Python, or seconds
            since 1970), `value` and `text`. Or a Past, which has been read already.

    Raises:
        InputError: an event cannot be read; says which.
    """
    if isinstance(raw, Past):
        return list(raw)
    if is_missing(raw):
        return []
    events = read_list(raw)
    if len(events) > MOST_EVENTS:
        raise InputError(f"a history of {len(events):,} events; {MOST_EVENTS:,} are the most that can be read")
    found = []
    for number, event in enumerate(events, start=1):
        try:
            found.append(read_event(event))
        except InputError as error:
            raise InputError(f"event {number}: {error}") from None
    timed = [event.seconds is not None for event in found]
    if any(timed) and not all(timed):
        raise InputError(f"event {timed.index(False) + 1} has no time, though others of this row have one")
    return sorted(found, key=lambda event: event.seconds or 0.0)


def read_list(raw: Any) -> list[Any]:
    """The list that a row holds, or that its JSON text spells; what is in it is not looked at. Raises InputError."""
    if isinstance(raw, str):
        if len(raw) > MOST_CHARACTERS:
            raise InputError(f"a history of {len(raw):,} characters; {MOST_CHARACTERS:,} are the most that can be read")
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise InputError(f'{raw!r:.60} is not a list of events in JSON, such as [{{"item": "a1"}}]') from None
    if hasattr(raw, "tolist"):  # an array of numpy, as parquet gives lists
        raw = raw.tolist()
    if not isinstance(raw, list):
        raise InputError(f"a list of events expected, found {type(raw).__name__}")
    return raw


def read_event(event: Any) -> Event:
    """One event, as `read_history` takes it. Raises InputError."""
    if not isinstance(event, Mapping):
        return Event(_as_name(event, "item"), PLAIN, None, None)
    unknown = [name for name in event if name not in FIELDS]
    if unknown:
        raise InputError(f"{unknown[0]!r:.60} is not one of {', '.join(FIELDS)}")
    kind, when, value, text = (event.get(name) for name in ("type", "time", "value", "text"))
    item, done = _as_name(event.get("item"), "item"), PLAIN if is_missing(kind) else _as_name(kind, "type")
    seconds, zoned = (None, None) if is_missing(when) else _as_time(when)
    return Event(
        item,
        done,
        seconds,
        None if is_missing(value) else as_number(value),
        None if is_missing(text) else plain_text(text),
        zoned,
    )


def _as_name(raw: Any, field: str) -> str:
    if is_missing(raw):
        raise InputError(f"it has no {field}")
    name = as_category(raw)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InputError(f"its {field} contains half a character (a lone surrogate)") from None
    return name


def _as_time(raw: Any) -> tuple[float, bool | None]:
    """Seconds since 1970, and whether a zone is named."""
    if is_moment(raw) and (moment := as_date(raw)) is not None:
        return moment.timestamp(), False
    if isinstance(raw, str) and EIGHT_DIGITS.fullmatch(raw.strip()):
        day = as_date(raw)
        if day is None or day.year not in YEARS:  # one by one, some would be taken for days and others for seconds
            raise InputError(f"{raw} has eight digits, as a day such as 20240531; write seconds with a point ({raw}.0)")
        return day.timestamp(), False
    if isinstance(raw, int) and (day := as_date(raw)) is not None and day.year in YEARS:
        raise InputError(f"{raw} may be a day or seconds; write the day as text, or seconds with a point ({raw}.0)")
    counted = isinstance(raw, str) and raw.strip().lstrip("-").replace(".", "", 1).isdigit()
    when = as_date(raw) if isinstance(raw, str | date) and not counted else None
    if when is not None:
        return when.timestamp(), names_zone(raw)
    try:
        seconds = as_number(raw)
    except InputError:
        raise InputError(f"{raw!r:.60} is not a time such as 2024-05-31T12:00, or seconds since 1970") from None
    if not FIRST_SECOND <= seconds <= LAST_SECOND:
        raise InputError(f"a time of {seconds:g} seconds since 1970; is it in milliseconds?")
    return seconds, None
