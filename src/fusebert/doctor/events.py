"""A look at tables of events before a recommender is trained on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from fusebert.data.columns import IGNORE, ColumnGuess
from fusebert.data.tables import read_table
from fusebert.doctor.finding import Finding
from fusebert.errors import DataError, RowError
from fusebert.modalities.values import mixed_zones
from fusebert.tasks.recommendation.config import Config
from fusebert.tasks.recommendation.histories import UserEvent, read_events
from fusebert.tasks.recommendation.leaks import leaks
from fusebert.types import Sample

NEW_ITEMS = 0.01
"""Share of the events that are scored, from which items that no training event has are worth a word."""
START = datetime(1970, 1, 1, tzinfo=UTC)

Parts = Mapping[str, Sequence[UserEvent]]


def check_events(
    tables: Mapping[str, Path], config: Config
) -> tuple[int, list[ColumnGuess], list[RowError], list[Finding]]:
    """How many rows there are, what their columns are, what is wrong with rows, and what may be wrong.

    Args:
        tables: by name of the part, the one to train on first.

    Raises:
        UsageError: a table lacks a column that the settings name.
    """
    parts: dict[str, list[UserEvent]] = {}
    problems: list[RowError] = []
    names: list[str] = []
    for name, table in tables.items():
        rows = list(read_table(table))
        names = names or list(next((row.values for row in rows if isinstance(row, Sample)), ()))
        parts[name], bad = read_events(iter(rows), config)
        problems += bad
    first = next(iter(tables))
    if not parts[first]:
        own = [problem for problem in problems if problem.table == tables[first]]
        raise own[0] if own else DataError(f"{tables[first]} has no rows")
    rows_read = len(problems) + sum(map(len, parts.values()))
    findings = [*_leaks(parts, config), *_mixed(parts, config), *_repeated(parts, config), *_new_items(parts, config)]
    return rows_read, list(_columns(names, parts[first], config)), problems, findings


def _columns(names: Sequence[str], train: Sequence[UserEvent], config: Config) -> Iterator[ColumnGuess]:
    events = [one.event for one in train]
    days = [(START + timedelta(seconds=event.seconds)).date() for event in events if event.seconds is not None]
    said = {
        config.user: ("user", f"{len({one.user for one in train}):,} different"),
        config.item: ("item", f"{len({event.item for event in events}):,} different"),
        config.type: ("type", f"{len({event.type for event in events}):,} different"),
        config.value: ("value", f"{sum(event.value is not None for event in events):,} events have one"),
        config.time: ("time", f"{min(days)} to {max(days)}" if days else ""),
    }
    for name in names:
        yield ColumnGuess(name, *said.get(name, (IGNORE, "not read for a recommender")))


def _leaks(parts: Parts, config: Config) -> Iterator[Finding]:
    for is_leak, said in leaks(parts, config.repeats):
        yield Finding("leak" if is_leak else "repeated items", config.item, said)


def _mixed(parts: Parts, config: Config) -> Iterator[Finding]:
    events = [one for part in parts.values() for one in part]
    if config.time is not None and (said := mixed_zones(Counter(one.event.zoned for one in events))):
        yield Finding("mixed time zones", config.time, said, _rows(one for one in events if one.event.zoned is False))


def _repeated(parts: Parts, config: Config) -> Iterator[Finding]:
    name, train = next(iter(parts.items()))
    seen = set()
    again = []
    for one in train:
        key = one.user, one.event
        again += [one] if key in seen and one.event.seconds is not None else []
        seen.add(key)
    if again:
        said = f"{len(again):,} rows of {name} repeat another in all"
        yield Finding("repeated event", config.item, said, _rows(again))


def _new_items(parts: Parts, config: Config) -> Iterator[Finding]:
    (_, train), *others = parts.items()
    known = {one.event.item for one in train}
    for name, asked in others:
        new = tuple(one for one in asked if one.event.item not in known)
        if asked and len(new) >= NEW_ITEMS * len(asked):
            said = (
                f"{len(new) / len(asked):.1%} of the {name} events have an item that no training event has; only "
                "task.catalogue with task.content can recommend it"
            )
            yield Finding("new items", config.item, said, _rows(new))


def _rows(events: Iterable[UserEvent]) -> tuple[Sample, ...]:
    return tuple(Sample(one.table, one.row, {}, None, one.line) for one in events)
