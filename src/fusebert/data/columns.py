"""What each column is: inferred from its values, with the evidence said aloud, or set by the user."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fusebert import plugins
from fusebert.errors import DataError, UsageError
from fusebert.modalities.values import as_list, is_missing, looks_like_number, looks_like_python_list
from fusebert.types import Evidence, Sample, is_given

IGNORE = "ignore"
ROWS_LOOKED_AT = 1000
"""Of the rows that have a value, at random, always the same."""
CLEAR_LEAD = 0.25
"""A column is ambiguous when the second best modality (or leaving it out) is within this of the best."""
PANDAS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0|level_0")
"""How pandas names rows' numbers in files, which may well follow the order of the labels."""
IDENTIFIERS = ("id", "index", "row_id", "编号", "序号", "订单号", "手机号", "身份证号", "身份证")
LONG_NUMBER = re.compile(r"1[3-9][0-9]{9}|[1-9][0-9]{16}[0-9Xx]")
"""Of telephones or people in China; other long numbers may be times or sums."""
FEW = 20
FEW_WORDS = 0.05
"""Share of a target's values that are words, up to which its numbers decide."""
PYTHON_LISTS = """lists as Python writes them, which are no lists here; write them as JSON: ["a", "b"]"""


@dataclass(frozen=True, slots=True)
class ColumnGuess:
    """What a column was taken for, and why; `ambiguous` when another reading is about as likely."""

    column: str
    kind: str
    why: str
    ambiguous: bool = False

    def __str__(self) -> str:
        return f"{self.column}: {self.kind} ({self.why}{'; ambiguous' if self.ambiguous else ''})"


def column_names(samples: Sequence[Sample]) -> list[str]:
    """Every column that some row has, in order of first sight."""
    return list(dict.fromkeys(name for sample in samples for name in sample.values))


def by_side(samples: Sequence[Sample], sides: Sequence[Sequence[str]]) -> Sequence[Sample]:
    """The rows as a trunk reads them: where it reads the sides of a row apart, one row for each side."""
    if not sides:
        return samples
    return [
        replace(sample, values={name: sample.values.get(name) for name in side}) for sample in samples for side in sides
    ]


def guess_columns(samples: Sequence[Sample], target: str | None, chosen: Mapping[str, str]) -> list[ColumnGuess]:
    """One guess for each column but the target; `chosen` columns are as the user said.

    Raises:
        UsageError: a chosen column (that is not ignored) or modality does not exist.
        DataError: no column is usable.
    """
    known, found = plugins.names("modalities"), column_names(samples)
    for column, modality in chosen.items():
        if column not in found and modality != IGNORE:
            raise UsageError(f"data.columns names {column!r}, but {samples[0].table} has {', '.join(found)}")
        if modality != IGNORE and modality not in known:
            raise UsageError(f"data.columns.{column}={modality!r}: known are {', '.join(sorted(known))} and {IGNORE}")
        if column == target:
            raise UsageError(f"data.columns.{column}={modality}, and {column!r} is the target; which of them?")
    guesses = [
        ColumnGuess(name, chosen[name], "as set") if name in chosen else guess_column(name, samples)
        for name in found
        if name != target
    ]
    absent = [ColumnGuess(name, IGNORE, "as set; no row has it") for name in chosen if name not in found]
    if all(guess.kind == IGNORE for guess in guesses):
        why = "; ".join(map(str, guesses)) or f"there is none beside {target!r}"
        raise DataError(f"{samples[0].table}: no column can be used as input: {why}")
    return guesses + absent


def guess_column(name: str, samples: Sequence[Sample]) -> ColumnGuess:
    """The modality whose evidence is strongest."""
    values = [value for sample in samples if is_given(value := sample.values.get(name))]
    if not values:
        return ColumnGuess(name, IGNORE, "always empty")
    values = random.Random(0).sample(
        values, min(len(values), ROWS_LOOKED_AT)
    )  # every n-th would see periodic rows alike
    if PANDAS_INDEX.fullmatch(name):
        return ColumnGuess(name, IGNORE, "the numbers of a data frame's rows")
    if _is_identifier(name, values):
        return ColumnGuess(name, IGNORE, "a different value in every row: an identifier")
    as_python_writes = 2 * sum(map(looks_like_python_list, values)) > len(values)
    weighed: list[tuple[float, str, str]] = []
    for modality in plugins.names("modalities"):
        evidence: Evidence | None = plugins.load("modalities", modality, "processor").matches(values)
        if evidence:
            weighed.append((evidence.confidence, modality, evidence.why))
    weighed.sort(reverse=True)
    if not weighed:
        why = PYTHON_LISTS if as_python_writes else f"no modality reads values like {values[0]!r:.40}"
        return ColumnGuess(name, IGNORE, why, as_python_writes)
    confidence, modality, why = weighed[0]
    second = max([other for other, _, _ in weighed[1:]] + [1 - confidence])
    kind, ambiguous = modality if confidence >= 0.4 else IGNORE, confidence - second < CLEAR_LEAD
    if as_python_writes:
        why, ambiguous = PYTHON_LISTS, True
    return ColumnGuess(name, kind, why, ambiguous)


def _is_identifier(name: str, values: Sequence[Any]) -> bool:
    """Whether all values differ, under such a name or as numbers of telephones or people."""
    texts = [str(value).strip() for value in values]
    if len(set(texts)) < len(texts):
        return False
    if name.strip().lower() in IDENTIFIERS:
        return True
    as_long = len(texts) >= FEW and len(set(map(len, texts))) == 1
    return as_long and all(map(LONG_NUMBER.fullmatch, texts))


def guess_task(name: str, targets: Sequence[Any]) -> ColumnGuess:
    """Classification or regression, from the training targets."""
    read, different = [_as_number(target) for target in targets], len(set(map(str, targets)))
    numbers = [number for number in read if number is not None and math.isfinite(number)]
    words = sum(number is None and not is_missing(target) for number, target in zip(read, targets, strict=True))
    if not numbers or words > FEW_WORDS * len(targets):
        if 2 * sum(as_list(target) is not None for target in targets) > len(targets):
            return ColumnGuess(name, "classification", "lists of labels")
        if 2 * sum(map(looks_like_python_list, targets)) > len(targets):
            return ColumnGuess(name, "classification", PYTHON_LISTS, ambiguous=True)
        if 2 * len(numbers) > len(targets) and different > FEW:
            given = ((number, target) for number, target in zip(read, targets, strict=True) if not is_missing(target))
            stray = next(str(target) for number, target in given if number is None)
            why = (
                f"{different} labels, because {words} of {len(targets)} values are no numbers, such as {stray!r:.40}; "
                "task.name=regression with data.bad_rows=skip leaves their rows out"
            )
            return ColumnGuess(name, "classification", why, ambiguous=True)
        if sum(map(looks_like_number, targets)) > len(targets) / 2:
            why = f"{different} labels; they look like numbers, of which only those like 1234.5 are read"
            return ColumnGuess(name, "classification", why, ambiguous=True)
        if different > max(FEW, len(targets) / 2):
            why = f"{different} labels in {len(targets)} rows, so a classifier can learn little"
            return ColumnGuess(name, "classification", why, ambiguous=True)
        return ColumnGuess(name, "classification", f"{different} labels")
    others = len(targets) - len(numbers)
    doubtful, beside = others > 0, f"; {others} of {len(targets)} values are no numbers" if others else ""
    if not all(map(float.is_integer, numbers)):
        why = f"numbers with fractions, {different} different{beside}"
        return ColumnGuess(name, "regression", why, doubtful)
    if different > FEW:
        why = f"whole numbers, {different} different{beside}"
        return ColumnGuess(name, "regression", why, doubtful or different < len(targets) / 10)
    if any(isinstance(target, str) for target in targets):
        return ColumnGuess(name, "classification", f"{different} labels written in digits{beside}", ambiguous=True)
    why = f"{different} different whole numbers{beside}"
    return ColumnGuess(name, "classification", why, doubtful or different > 2)


def _as_number(target: Any) -> float | None:
    if isinstance(target, bool) or not isinstance(target, str | int | float):
        return None
    if isinstance(target, str) and "_" in target:  # Python reads 2023_01 as a number
        return None
    try:
        return float(target)
    except ValueError:
        return None
    except OverflowError:
        return math.inf
