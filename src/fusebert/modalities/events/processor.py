"""A user's history -> one token an event: what it was about, what was done, and how long after the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field
from tokenizers import Tokenizer

from fusebert.errors import InputError, UsageError
from fusebert.modalities.base import Collated
from fusebert.modalities.events.history import Event, read_history, read_list
from fusebert.modalities.text.tokenizer import encode, read_tokenizer
from fusebert.modalities.values import mixed_zones, without_slips
from fusebert.section import FITTED, Section
from fusebert.storage import read_json, write_atomically, write_json
from fusebert.types import Evidence, Features, Sample

UNKNOWN = 0
"""The code of an item or a type that the training rows do not have, or that is to be guessed; theirs begin at 1."""
GAPS = 34
"""Codes of the time since the event before: 0 for none, else 1 + the whole part of log2(seconds + 1), at most 33
(136 years and more)."""
FIELDS = ("items", "types", "gaps", "values", "ages", "place", "pieces", "piece_counts")
TOKENIZER = "events_tokenizer.json"
LOOKED_AT = 1000
"""Rows, about, whose times are compared."""
MOST_PIECES = 64
"""Of the text of one event, the first."""
FARTHEST = 1000.0
"""Deviations from the mean beyond which a value says no more; far larger ones are infinite in a layer's arithmetic."""
VALUES_LOOKED_AT = 100
"""Values of a column, to see whether they are histories."""


class Config(Section):
    """How histories are read."""

    max_events: int = Field(100, ge=1, le=4096, description="of a history, the newest; older ones are left out")
    max_items: int = Field(
        50_000, ge=1, le=1_000_000, description="items with a vector of their own, the most frequent"
    )
    items: int = Field(0, ge=0, json_schema_extra=FITTED, description="items that have a vector")
    types: int = Field(0, ge=0, json_schema_extra=FITTED, description="types of events")
    asks_next: bool = Field(
        False, json_schema_extra=FITTED, description="the newest event is one that is to be guessed"
    )
    content_size: int = Field(0, ge=0, json_schema_extra=FITTED, description="numbers that describe an item")
    described_by: str = Field(
        "", json_schema_extra=FITTED, description="what made these numbers: its hash, or else its name"
    )
    own_vectors: int = Field(
        0, ge=0, json_schema_extra=FITTED, description="described items that have a vector besides"
    )


class Processor:
    """Reads the histories of a row; several columns keep their places.

    Args:
        items, types: names in the training rows, the most frequent first.
        mean, deviation: of the values of their events.
        tokenizer: the pretrained trunk's, where their events have text.
    """

    def __init__(
        self,
        config: Config,
        columns: Sequence[str],
        items: Sequence[str],
        types: Sequence[str],
        mean: float,
        deviation: float,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.config = config.model_copy(update={"items": len(items), "types": len(types)})
        self.columns, self.items, self.types = tuple(columns), tuple(items), tuple(types)
        self.mean, self.deviation, self.tokenizer = mean, deviation, tokenizer
        self._items, self._types = ({name: 1 + code for code, name in enumerate(names)} for names in (items, types))

    @property
    def fitted(self) -> tuple[Any, ...]:
        """What codes and values mean."""
        return self.items, self.types, self.mean, self.deviation, self.tokenizer and self.tokenizer.to_str()

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        """Items, types, and the scale of values, of the training rows.

        Raises:
            UsageError: events have text, and there is no vocabulary to read it with.
        """
        has_text = False
        items, types, values = Counter[str](), Counter[str](), list[float]()
        for sample in samples:
            for name in columns:
                try:
                    events = read_history(sample.values.get(name))
                except InputError:  # such rows are reported by the check of every row
                    continue
                items.update(event.item for event in events)
                types.update(event.type for event in events)
                values += [event.value for event in events if event.value is not None]
                has_text = has_text or any(event.text for event in events)
        if has_text and pretrained is None:
            raise UsageError(
                "events have text, which is read with the words of a pretrained trunk; name one with model.trunk, or "
                "leave `text` out of the events"
            )
        ordered = (sorted(found, key=lambda name: (-found[name], name)) for found in (items, types))
        item_names, type_names = ordered
        scaled = without_slips(np.array(values))  # one would make all others equal
        mean = float(scaled.mean()) if values else 0.0
        deviation = (float(scaled.std()) if values and scaled.min() < scaled.max() else 0.0) or 1.0
        tokenizer = _vocabulary(pretrained) if has_text and pretrained is not None else None
        return cls(config, columns, item_names[: config.max_items], type_names, mean, deviation, tokenizer)

    def doubts(self, samples: Sequence[Sample]) -> list[str]:
        """In words: columns in which some times name a zone, by some of the rows."""
        zones = {name: Counter[bool | None]() for name in self.columns}
        for sample in samples[:: max(1, len(samples) // LOOKED_AT)]:
            for name, named in zones.items():
                with suppress(InputError):  # reported with its row
                    named.update(event.zoned for event in read_history(sample.values.get(name)))
        return [f"column {name!r}: {why}" for name, named in zones.items() if (why := mixed_zones(named))]

    def load(self, sample: Sample) -> Features | None:
        """Of E events: `items`, `types`, `gaps`, `ages` (0 for the newest) and `place` int64[E], and `values`
        float32[E, 2], the scaled value and whether there is one; `piece_counts` int64[E], pieces of each one's text,
        and `pieces` int64, their ids, one event after another.

        With `asks_next`, the newest event is the one to be guessed, and `seen` int64[S] are the items of the whole
        history, also of what was left out.
        """
        parts, seen = [], list[Event]()
        for place, name in enumerate(self.columns):
            events = read_history(sample.values.get(name))
            seen += events
            if events or self.config.asks_next:
                newest = self.config.max_events - self.config.asks_next
                older = events[: -newest or None][-1:] if len(events) > newest else []
                parts.append(self.encode(events[-newest:] if newest else [], older, place))
        if not parts:
            return None
        features = {name: np.concatenate([part[name] for part in parts]) for name in FIELDS}
        if self.config.asks_next:
            features["seen"] = np.array(sorted({self.code(event.item) for event in seen} - {UNKNOWN}), dtype=int)
        return features

    def code(self, item: str) -> int:
        """Of an item; UNKNOWN where the training rows do not have it."""
        return self._items.get(item, UNKNOWN)

    def encode(self, events: Sequence[Event], older: Sequence[Event], place: int = 0) -> dict[str, np.ndarray]:
        """The FIELDS of events in a row, and of the one to be guessed after them.

        Args:
            older: the event before them, if there is one; only its time counts.
        """
        before: list[Event | None] = [older[0] if older else None, *events]
        gaps = [_gap(*pair) for pair in zip(before, events, strict=False)]
        values = np.zeros((len(events), 2), dtype=np.float32)
        for number, event in enumerate(events):
            if event.value is not None:
                values[number] = np.clip((event.value - self.mean) / self.deviation, -FARTHEST, FARTHEST), 1
        found = {
            "items": np.array([self.code(event.item) for event in events], dtype=int),
            "types": np.array([self._types.get(event.type, UNKNOWN) for event in events], dtype=int),
            "gaps": np.array(gaps, dtype=int),
            "values": values,
        }
        if self.config.asks_next:
            asked = {name: np.zeros_like(array, shape=(1, *array.shape[1:])) for name, array in found.items()}
            found = {name: np.concatenate([array, asked[name]]) for name, array in found.items()}
        count = len(found["items"])
        texts = [self._pieces(event) for event in events]
        counts = np.zeros(count, dtype=int)
        counts[: len(texts)] = [len(pieces) for pieces in texts]
        found |= {"pieces": np.array([*chain(*texts)], dtype=int), "piece_counts": counts}
        return found | {"ages": np.arange(count)[::-1].copy(), "place": np.full(count, place)}

    def _pieces(self, event: Event) -> list[int]:
        if event.text is None:
            return []
        if self.tokenizer is None:
            raise InputError("an event has text, but those that the model was trained on had none")
        return encode(self.tokenizer, event.text, MOST_PIECES)[:MOST_PIECES]

    def length(self, features: Features) -> int:
        return len(features["items"])

    def collate(self, rows: Sequence[Features]) -> Collated:
        """The fields of all events; with `asks_next`, `seen` int64[S] and which row has seen each, `seen_by`."""
        fields = {name: np.concatenate([row[name] for row in rows]) for name in FIELDS}
        if self.config.asks_next:
            fields["seen"] = np.concatenate([row["seen"] for row in rows])
            fields["seen_by"] = np.repeat(np.arange(len(rows)), [len(row["seen"]) for row in rows])
        return fields

    def save(self, folder: Path) -> None:
        saved = {"columns": self.columns, "config": self.config.model_dump(), "mean": self.mean}
        saved |= {"deviation": self.deviation, "types": self.types, "items": self.items}
        write_json(folder / "processors" / "events.json", saved)
        if self.tokenizer is not None:
            write_atomically(folder / "processors" / TOKENIZER, self.tokenizer.to_str().encode())

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "events.json")
        scale = saved["mean"], saved["deviation"]
        file = folder / "processors" / TOKENIZER
        tokenizer = read_tokenizer(file.parent, TOKENIZER) if file.is_file() else None
        return cls(Config(**saved["config"]), saved["columns"], saved["items"], saved["types"], *scale, tokenizer)


def _vocabulary(pretrained: Path) -> Tokenizer:
    """A trunk's own; a model of fusebert that reads no other text has it among its processors."""
    own = pretrained / "processors"
    return read_tokenizer(own, TOKENIZER) if (own / TOKENIZER).is_file() else read_tokenizer(pretrained)


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of lists of events with an item each, also as JSON text; a few broken ones are reported by the check of
    every row."""
    looked_at = values[:VALUES_LOOKED_AT]
    lists = 0
    named = False
    for value in looked_at:
        with suppress(InputError):
            events = read_list(value)
            read_history(events)
            lists += 1
            named = named or any(isinstance(event, dict) for event in events)
    if not named or 2 * lists <= len(looked_at):
        return None
    return Evidence("lists of events", 0.95)


def _gap(before: Event | None, event: Event) -> int:
    if before is None or before.seconds is None or event.seconds is None:
        return 0
    return min(GAPS - 1, 1 + int(np.log2(event.seconds - before.seconds + 1)))
