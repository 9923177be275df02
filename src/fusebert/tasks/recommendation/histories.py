"""Tables of events -> histories of users, and what is asked about them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusebert.data.dataset import Preparer
from fusebert.data.tables import Rows
from fusebert.errors import DataError, InputError, RowError, UsageError
from fusebert.modalities.events.history import MOST_EVENTS, Event, Past, read_event
from fusebert.modalities.values import as_category, is_missing
from fusebert.tasks.recommendation.config import HISTORY, NEXT, Config, Target
from fusebert.types import Example, Sample


@dataclass(frozen=True, slots=True)
class UserEvent:
    """One event, who did it, and where it stands."""

    user: str
    event: Event
    table: Path
    row: int
    line: int | None = None
    raw_user: Any = None

    @property
    def seconds(self) -> float:
        """When, for sorting; without times all are equal, and stay in the order of the rows."""
        return self.event.seconds or 0.0


def read_events(rows: Rows, config: Config) -> tuple[list[UserEvent], list[RowError]]:
    """The events of a table, and what is wrong with the rows that hold none.

    Raises:
        UsageError: the table lacks a column that the recipe names.
    """
    fields = {"item": config.item, "time": config.time, "type": config.type, "value": config.value}
    columns = {field: column for field, column in fields.items() if column is not None}
    done: list[UserEvent] = []
    bad: list[RowError] = []
    seen: dict[str, None] = {}
    for row in rows:
        if isinstance(row, RowError):
            bad.append(row)
            continue
        table = row.table
        seen.update(dict.fromkeys(row.values))
        made = _read(row, config.user, columns)
        if isinstance(made, RowError):
            bad.append(made)
        else:
            done.append(made)
    for field, column in {"user": config.user, **columns}.items():
        if seen and column not in seen:
            raise UsageError(
                f"{table} has no column {column!r}, only {', '.join(seen)}; name the one that holds the {field} with "
                f"task.{field}=COLUMN in training, and as there ever after"
            )
    return done, bad


def _read(sample: Sample, user: str, columns: dict[str, str]) -> UserEvent | RowError:
    raw = sample.values.get(user)
    if is_missing(raw):
        return sample.error("it has no user", user)
    if "time" in columns and is_missing(sample.values.get(columns["time"])):
        return sample.error("it has no time", columns["time"])
    try:
        event = read_event({field: sample.values.get(column) for field, column in columns.items()})
        return UserEvent(as_category(raw), event, sample.table, sample.row, sample.line, raw)
    except InputError as error:
        return sample.error(str(error))


def by_user(done: Iterable[UserEvent]) -> dict[str, list[UserEvent]]:
    """Everyone's events, the oldest first. Raises DataError where someone has more than can be read."""
    found: dict[str, list[UserEvent]] = {}
    for one in done:
        found.setdefault(one.user, []).append(one)
    for user, events in found.items():
        if len(events) > MOST_EVENTS:
            raise DataError(
                f"{events[0].table}: {user!r} has {len(events):,} events; {MOST_EVENTS:,} are the most that can be read"
            )
        events.sort(key=lambda one: one.seconds)
    return found


def hold_out_newest(done: Sequence[UserEvent], share: float) -> tuple[list[UserEvent], list[UserEvent]]:
    """Older and newer events. Those of all users are cut at one moment, so that nobody's future is known; without
    times, each user's last ones are held out, of two or more at least the newest."""
    if all(one.event.seconds is not None for one in done):
        ordered = sorted(done, key=lambda one: one.seconds)
        cut = round(len(ordered) * (1 - share))
        while 0 < cut < len(ordered) and ordered[cut].seconds == ordered[cut - 1].seconds:
            cut += 1
        if cut == len(ordered):  # the last moment alone has more than the share
            cut = next((n for n, one in enumerate(ordered) if one.seconds == ordered[-1].seconds), cut)
        if ordered and cut == 0:
            raise DataError(
                f"{ordered[0].table}: all events are of one moment, so none are older; leave out task.time, or name a "
                "table for data.validation"
            )
        return ordered[:cut], ordered[cut:]
    older: list[UserEvent] = []
    newer: list[UserEvent] = []
    for events in by_user(done).values():
        cut = min(math.ceil(len(events) * (1 - share)), max(1, len(events) - 1))
        older += events[:cut]
        newer += events[cut:]
    return older, newer


def questions(known: Iterable[UserEvent], asked: Iterable[UserEvent]) -> Iterator[Sample]:
    """A row for each of the asked events: what its user did before, known or asked, and which item came next.

    Events of one moment, such as what is bought together, do not know of each other: their order is that of the file.
    A known event that is asked about, too, is one event; without times nobody can tell it from one that was done twice.
    """
    asked = list(asked)
    wanted = {id(one) for one in asked}
    timed = {(one.user, one.event) for one in asked if one.event.seconds is not None}
    known = [one for one in known if (one.user, one.event) not in timed]
    for events in by_user([*known, *asked]).values():
        past, before = [one.event for one in events], 0
        for place, one in enumerate(events):
            if one.event.seconds is None or one.seconds > events[before].seconds:
                before = place
            if id(one) in wanted:
                values = {HISTORY: Past(past, before), NEXT: one.event.item}
                yield Sample(one.table, one.row, values, None, one.line)


def asked_again(known: Iterable[UserEvent], asked: Sequence[UserEvent]) -> str | None:
    """In words: most events that are asked about are known ones, and nothing says which came first; None where times
    tell, or few are."""
    there = {(one.user, one.event) for one in known}
    again = sum(one.event.seconds is None and (one.user, one.event) in there for one in asked)
    if 2 * again <= len(asked):
        return None
    return (
        f"{again:,} of the {len(asked):,} events of {asked[0].table} are known events, too, and no times tell which "
        "came first; leave them out of what is known"
    )


def whole_histories(done: Iterable[UserEvent], column: str = "user") -> list[Sample]:
    """A row for each user, named in `column` as in the table, with all that they did."""
    found = []
    for events in by_user(done).values():
        past = Past([one.event for one in events], len(events))
        found.append(Sample(events[0].table, events[0].row, {column: events[0].raw_user, HISTORY: past}, None))
    return found


class Histories:
    """The parts of all histories that one epoch reads. What it holds is a pure function of seed and epoch.

    Each part ends with an event to be guessed, as when a model is asked. Those before it are to be guessed too, each at
    the token before it; or, where some are masked, these at their own tokens. Where parts end differs from epoch to
    epoch.

    Args:
        samples: a whole history each.
        preparer: with the processor of the events.
        masked: share of the events before the last one that are hidden; None to guess each from those before it.
    """

    def __init__(self, samples: Sequence[Sample], preparer: Preparer, masked: float | None, seed: int) -> None:
        self.samples, self.preparer, self.masked, self.seed = samples, preparer, masked, seed
        self.processor: Any = preparer.processors["events"]
        self.epoch = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch, longest = number, self.processor.config.max_events
        random = np.random.default_rng([self.seed, number, 1])  # not that of the epoch's order
        parts = []
        for user, sample in enumerate(self.samples):
            count = len(sample.values[HISTORY])
            last = count - int(random.integers(min(count, longest)))
            parts += [(user, max(0, end - longest), end) for end in range(last, 0, -longest)]
        self.parts = np.array(parts)
        self.lengths = 1 + self.parts[:, 2] - self.parts[:, 1]

    @property
    def events(self) -> int:
        """Of all histories together."""
        return sum(len(sample.values[HISTORY]) for sample in self.samples)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Example:
        """A part of a history, and what is to be guessed at which of its tokens."""
        user, start, end = self.parts[number].tolist()
        events = self.samples[user].values[HISTORY].events
        features = self.processor.encode(events[start : end - 1], events[max(0, start - 1) : start])
        features["seen"] = np.zeros(0, dtype=np.int64)
        codes = features["items"].copy()
        codes[-1] = self.processor.code(events[end - 1].item)
        asked = np.ones(end - start, dtype=bool)
        if self.masked is not None:
            random = np.random.default_rng([self.seed, self.epoch, number, 1])
            asked[:-1] = random.random(end - start)[:-1] < self.masked
            for field in ("items", "types", "gaps", "values"):
                features[field][asked] = 0
        places = np.flatnonzero(asked & (codes > 0))
        at = places if self.masked is None else 1 + places  # the first token is [CLS]
        return Example({"events": features}, Target(at, codes[places]), 1 + end - start)
