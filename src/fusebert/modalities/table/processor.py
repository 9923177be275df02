"""Numbers, dates, categories and booleans of a row -> one token a column (FT-Transformer, Gorishniy et al. 2021)."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, Field

from fusebert.errors import UsageError
from fusebert.modalities.base import Collated
from fusebert.modalities.table.columns import (
    DATE_EXTRAS,
    MISSING,
    Column,
    far_values,
    fit_column,
    is_version,
    kind_of,
    numbered,
    seldom_recurring,
    spoilt,
)
from fusebert.modalities.values import (
    are_few,
    is_missing,
    looks_like_number,
    mixed_zones,
    names_zone,
    without_fraction,
)
from fusebert.section import FITTED, Section, Word, one_or_more
from fusebert.storage import read_json, write_json
from fusebert.types import Evidence, Features, Sample

FEW_WORDS = 3
"""Strings are categories where they are at most so many words, and few of them differ."""
FEW_OTHERS = 0.05
"""Share of a column's values that no table holds, such as lists, up to which they are slips."""
DATE_LIKE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}([ T]\d{1,2}:\d{2}.*)?")


class Config(Section):
    """How columns of a table are read."""

    bins: int = Field(
        16, ge=1, le=256, description="pieces of a number's piecewise-linear encoding (Gorishniy et al. 2022)"
    )
    max_categories: int = Field(1000, ge=1, le=100_000, description="of a column; rarer ones count as unknown")
    categories: Annotated[tuple[Word, ...], BeforeValidator(one_or_more)] = Field(
        (), description="columns whose numbers are names, such as codes of regions"
    )
    value_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of values that are missing in training, so that no single column says all"
    )
    missing: Annotated[tuple[Word, ...], BeforeValidator(one_or_more)] = Field(
        (),
        description="words or numbers (-999) that say that a value is missing, beside null, none, nan, n/a, - and ?",
    )
    codes: int = Field(0, ge=0, json_schema_extra=FITTED, description="codes of all columns together")

    @property
    def width(self) -> int:
        """Numbers that encode one value."""
        return self.bins + DATE_EXTRAS


class Processor:
    """Reads the table's columns of a row. A missing value is a token too; a row with nothing at all has none."""

    def __init__(self, config: Config, columns: Sequence[str], fitted: Sequence[Column]) -> None:
        self.columns, self.fitted = tuple(columns), list(fitted)
        self.starts = np.concatenate([[0], np.cumsum([column.codes for column in fitted])])
        self.config = config.model_copy(update={"codes": int(self.starts[-1])})
        self._missing = _plain_words(config)

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        """Bins and categories of the training rows."""
        for name in config.categories:
            if name not in columns:
                raise UsageError(
                    f"table.categories names {name!r}; the table's columns are {', '.join(columns)}; several are [A, B]"
                )
        rows, missing = list(samples), _plain_words(config)
        fitted = [
            fit_column(
                [_given(sample, name, missing) for sample in rows],
                config.bins,
                config.max_categories,
                name in config.categories,
            )
            for name in columns
        ]
        return cls(config, columns, fitted)

    def load(self, sample: Sample) -> Features | None:
        """`codes` int64[K] and `encoded` float32[K, width], for all K columns; None where all are missing."""
        values = [_given(sample, name, self._missing) for name in self.columns]
        if all(map(is_missing, values)):
            return None
        read = [column.read(raw, self.config.width) for column, raw in zip(self.fitted, values, strict=True)]
        return {
            "codes": self.starts[:-1] + np.array([code for code, _ in read]),
            "encoded": np.stack([encoded for _, encoded in read]),
        }

    def unknown(self, sample: Sample) -> list[str]:
        """The columns whose category the training rows do not have."""
        return [
            name
            for name, column in zip(self.columns, self.fitted, strict=True)
            if not column.is_known(_given(sample, name, self._missing))
        ]

    def doubts(self, samples: Sequence[Sample]) -> list[str]:
        """In words: numbers and dates far from the others; columns of numbers, or of dates, that some words have made
        categories; categories of which most occur once; dates some of which name a time zone; and numbers that are
        probably names."""
        said, names = [], {}
        for name, column in zip(self.columns, self.fitted, strict=True):
            given = (_given(sample, name, self._missing) for sample in samples)
            present = [value for value in given if not is_missing(value)]
            if column.kind != "category" and (why := far_values(column, present)):
                said.append(f"column {name!r}: {why}")
            if column.kind == "number":
                if why := numbered(name, present):
                    names[name] = why
            elif column.kind == "date":
                if why := mixed_zones(Counter(map(names_zone, present))):
                    said.append(f"column {name!r}: {why}")
            elif name not in self.config.categories and (why := spoilt(present)):
                said.append(f"column {name!r}: each value counts as a name of its own, because {why}")
            elif alike := next((names for names in column.spellings if len(names) > 1), None):
                said.append(
                    f"column {name!r}: {' and '.join(map(repr, alike))} are different values to it; write one of them"
                )
            elif why := seldom_recurring(present, name in self.config.categories):
                said.append(f"column {name!r} has {why} leave the column out with data.columns.{name}=ignore")
        if names:
            wanted = json.dumps([*self.config.categories, *names], ensure_ascii=False)
            said.append(
                f"numbers that may be names are read as quantities: {', '.join(map(' '.join, names.items()))}; "
                f"{shlex.quote(f'table.categories={wanted}')} reads them as names, "
                "data.columns.NAME=ignore leaves one out"
            )
        return said

    @staticmethod
    def content(value: Any, root: Path | None) -> str | None:  # noqa: ARG004
        """What tells a value from others: 5, 5.0 and `5 ` are the same, and ways to write nothing are nothing."""
        return None if is_missing(value) else without_fraction(value)

    @property
    def varies(self) -> bool:
        """Whether training hides values."""
        return self.config.value_dropout > 0

    def vary(self, features: Features, random: np.random.Generator) -> Features:
        """Some values taken for missing."""
        hidden = random.random(len(self.columns)) < self.config.value_dropout
        return {
            "codes": np.where(hidden, self.starts[:-1] + MISSING, features["codes"]),
            "encoded": np.where(hidden[:, None], np.float32(0), features["encoded"]),
        }

    def length(self, features: Features) -> int:
        return len(features["codes"])

    def collate(self, rows: Sequence[Features]) -> Collated:
        return {name: np.stack([row[name] for row in rows]) for name in ("codes", "encoded")}

    def save(self, folder: Path) -> None:
        saved = {"columns": self.columns, "config": self.config.model_dump()}
        write_json(folder / "processors" / "table.json", saved | {"fitted": [asdict(column) for column in self.fitted]})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "table.json")
        return cls(Config(**saved["config"]), saved["columns"], [Column(**column) for column in saved["fitted"]])


def _plain_words(config: Config) -> frozenset[str]:
    return frozenset(spelled for word in config.missing for spelled in _spellings(word))


def _spellings(value: str | float) -> tuple[str, str]:
    """As it stands there, and a whole number without its fraction, so that -999 is -999.0."""
    return str(value).strip().casefold(), without_fraction(value).casefold()


def _given(sample: Sample, name: str, missing: frozenset[str]) -> Any:
    """A value; None for one of the words and numbers that are set to mean that there is none."""
    value = sample.values.get(name)
    if missing and isinstance(value, str | int | float) and not missing.isdisjoint(_spellings(value)):
        return None
    return value


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of numbers, dates, booleans, or of few different short strings; a few other values are reported by the
    check of every row."""
    given = [value for value in values if not is_missing(value)]
    present = [value for value in given if isinstance(value, str | int | float | bool | date)]
    if not present or len(given) - len(present) > FEW_OTHERS * len(given):
        return None
    different = len(set(map(str, present)))
    if all(isinstance(value, bool) for value in present):
        return Evidence("true or false", 0.95)
    kind = kind_of(present)
    if kind != "category":
        return Evidence(f"{kind}s, {different} different", 0.9)
    few = are_few(different, len(present))
    if why := spoilt(present):
        return Evidence(why, 0.3)
    versions = any(map(is_version, present))
    if (
        not few
        and not versions
        and sum(bool(DATE_LIKE.fullmatch(str(value).strip())) for value in present) > len(present) / 2
    ):
        return Evidence("they look like dates, of which only those like 2024-03-28 are read", 0.3)
    if not few and sum(map(looks_like_number, present)) > len(present) / 2:
        return Evidence("they look like numbers, of which only those like 1234.5 are read", 0.3)
    words = sum(len(str(value).split()) for value in present) / len(present)
    if words > FEW_WORDS or different == len(present):
        return None
    return Evidence(f"{different} different values", 0.72 if few else 0.3)
