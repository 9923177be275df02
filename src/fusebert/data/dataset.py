"""Rows that have been checked once, prepared each time they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fusebert.errors import DataError, InputError, RowError
from fusebert.modalities.base import Processor
from fusebert.storage import write_atomically
from fusebert.types import Example, Features, Sample, is_given

if TYPE_CHECKING:
    from fusebert.tasks.base import Task

ROWS_NAMED = 3
NO_SUCH_COLUMN = "there is no such column"
KEPT_BYTES, EXAMPLE_BYTES = 256 * 2**20, 2048
"""Of prepared rows that one split keeps, and what a row takes beside its arrays."""
ROWS = 2
"""Ends the seed of what is drawn for a row. Zeros at the end of numpy's seeds do not count, so that without it row 0
would have the stream of the epoch's order; those of rows of pre-training and of recommendation end in 1."""

Lost = dict[tuple[str, int], dict[str, RowError]]
"""What could not be read of rows that are used without it, by table and row, then by column."""


class Preparer:
    """A raw row -> an Example, or a RowError that says what is wrong with it.

    Args:
        processors: by modality.
        task: with `target`, reads the targets; a row without one is then an error.
        target: the target column; None to leave targets alone.
        sides: columns of each side, where the trunk reads them apart; a side without columns is skipped.
        hard_negatives: column of a side -> the column whose values stand in for its own in one more side.
        bare: let rows with nothing to read pass as [CLS] alone.
        lost: where given, an input that cannot be read is left out of its row and noted here, by its place; else it
            makes the row unusable.
    """

    def __init__(
        self,
        processors: Mapping[str, Processor],
        task: Task | None = None,
        target: str | None = None,
        sides: Sequence[Sequence[str]] = (),
        hard_negatives: Mapping[str, str] | None = None,
        bare: bool = False,
        lost: Lost | None = None,
    ) -> None:
        self.processors, self.task, self.target, self.bare, self.lost = processors, task, target, bare, lost
        self.sides = [{column: column for column in columns} for columns in sides]
        if hard_negatives:
            self.sides.append(dict(hard_negatives))

    def __call__(self, sample: Sample | RowError) -> Example | RowError:
        if isinstance(sample, RowError):
            return sample
        made = self._apart(sample) if self.sides else self._whole(sample)
        if self.lost and isinstance(made, RowError):
            self.lost.pop((str(sample.table), sample.row), None)  # what it lacks does not matter any more
        return made

    def _whole(self, sample: Sample) -> Example | RowError:
        features = self._features(sample, {})
        if isinstance(features, RowError):
            return features
        if not features and not self.bare:
            return self._nothing(sample, [column for one in self.processors.values() for column in one.columns])
        length = self.length(features)
        if self.task is None or self.target is None:
            return Example(features, None, length)
        raw = sample.values.get(self.target)
        if not is_given(raw):
            is_there = self.target in sample.values
            return sample.error("the target is empty" if is_there else NO_SUCH_COLUMN, self.target)
        try:
            return Example(features, self.task.target(raw), length)
        except InputError as error:
            return sample.error(str(error), self.target)

    def _apart(self, sample: Sample) -> Example | RowError:
        sides = []
        for sources in self.sides:
            values = {column: sample.values.get(source) for column, source in sources.items()}
            features = self._features(replace(sample, values=values), sources)
            if isinstance(features, RowError):
                return features
            if sources and not features and not self.bare:
                return self._nothing(sample, list(sources.values()))
            sides.append(Example(features, None, self.length(features)))
        try:
            target = self.belonging(without_lost(sample, self.lost))
        except RowError as error:
            return error
        return Example({}, target, sum(side.length for side in sides), tuple(sides))

    def belonging(self, sample: Sample) -> Any:
        """What the task, if there is one, makes of a row whose sides belong together. Raises RowError."""
        if self.task is None:
            return None
        sides = [
            {column: self._content(column, sample, source) for column, source in side.items()} for side in self.sides
        ]
        return self.task.target(sides)

    def _content(self, column: str, sample: Sample, source: str) -> Any:
        """What counts of a value, that of `source` in place of `column`, where equal ones belong together."""
        value = sample.values.get(source)
        reader: Any = next((one for one in self.processors.values() if column in one.columns), None)
        if not hasattr(reader, "content") or not is_given(value):
            return value
        try:
            return reader.content(value, sample.root)
        except InputError as error:
            raise sample.error(str(error), source) from None

    def length(self, features: Mapping[str, Features]) -> int:
        """Tokens of the trunk's sequence, [CLS] included."""
        return 1 + sum(self.processors[name].length(found) for name, found in features.items())

    def _nothing(self, sample: Sample, columns: Sequence[str]) -> RowError:
        if self.lost and (mine := self.lost.get((str(sample.table), sample.row))):
            return next(iter(mine.values()))
        which = f"all of {', '.join(columns)} are" if len(columns) > 1 else f"{columns[0]} is"
        return sample.error(f"nothing to read: {which} empty")

    def _features(self, sample: Sample, sources: Mapping[str, str]) -> dict[str, Features] | RowError:
        features = {}
        for name, processor in self.processors.items():
            found = self._load(processor, sample, sources)
            if isinstance(found, RowError):
                return found
            if found is not None:
                features[name] = found
        return features

    def _load(self, processor: Processor, sample: Sample, sources: Mapping[str, str]) -> Features | RowError | None:
        """Features, perhaps without what is lost.

        Args:
            sources: the column of the table behind each of the sample's that has another name.
        """
        while True:
            try:
                return processor.load(sample)
            except InputError as error:
                column = _culprit(processor, sample)
                problem = sample.error(str(error), sources.get(column, column))
            if self.lost is None or sample.values.get(column) is None:
                return problem
            self.lost.setdefault((str(sample.table), sample.row), {})[sources.get(column, column)] = problem
            sample = replace(sample, values={**sample.values, column: None})


def _culprit(processor: Processor, sample: Sample) -> str:
    """The first column that cannot be read by itself; all of the modality's where each can."""

    def reads(columns: Sequence[str]) -> bool:
        try:
            processor.load(replace(sample, values={column: sample.values.get(column) for column in columns}))
        except InputError:
            return False
        return True

    left = list(processor.columns)
    while len(left) > 1:  # a bad column is bad in any company, so halves will do
        half = left[: len(left) // 2]
        left = left[len(half) :] if reads(half) else half
    if not reads(left):
        return left[0]
    # columns that are bad together only
    return next((column for column in processor.columns if not reads([column])), ", ".join(processor.columns))


class ExampleCache:
    """Prepared rows by number, up to KEPT_BYTES or so many."""

    def __init__(self, room_bytes: int | None = None) -> None:
        self._examples: dict[int, Example] = {}
        self._counted: set[int] = set()
        self._room = KEPT_BYTES if room_bytes is None else room_bytes

    def get(self, number: int) -> Example | None:
        return self._examples.get(number)

    def add(self, number: int, example: Example) -> None:
        """Keep it if there is room; what rows share, such as a picture, takes room once."""
        if self._room <= 0:
            return
        self._examples[number] = example
        new = {id(array): array.nbytes for array in example.arrays() if id(array) not in self._counted}
        self._counted.update(new)
        self._room -= sum(new.values()) + EXAMPLE_BYTES


class Split(Protocol):
    """Examples to learn from or to score; of `epoch`, where each has others.

    Args:
        lengths: int64[rows], tokens of each.
    """

    epoch: int

    @property
    def lengths(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Example: ...

    def __iter__(self) -> Iterator[Example]: ...


class Dataset:
    """Checked rows of one split; item i is its Example, kept once it is prepared as long as there is room.

    Args:
        samples: rows that `check` found good.
        lengths: int64[rows], tokens of each.
        modality_dropout: chance of each modality to be hidden, drawn anew each epoch; a row always keeps one.
        seed: of all draws.
        kept: rows that were prepared before.
        skipped: how many more rows the table has that cannot be used.
        lost_values: how many inputs its rows are used without.
        varied: let modalities that can vary a row do so, anew each epoch; for rows to learn from.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        lengths: np.ndarray,
        preparer: Preparer,
        modality_dropout: float = 0.0,
        seed: int = 0,
        kept: ExampleCache | None = None,
        skipped: int = 0,
        varied: bool = False,
        lost_values: int = 0,
    ) -> None:
        self.samples, self.lengths, self.preparer = samples, lengths, preparer
        self.skipped, self.lost_values = skipped, lost_values
        self.modality_dropout, self.seed, self.epoch = modality_dropout, seed, 0
        self.varied = varied and any(map(_varies, preparer.processors.values()))
        self._kept = kept or ExampleCache()

    def __getstate__(self) -> dict[str, object]:
        """Copies for worker processes, which are new in each epoch and are asked for each row once, keep nothing."""
        return self.__dict__ | {"_kept": ExampleCache(0)}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Example:
        return self.drawn(self.prepared(number), number)

    def kept(self, number: int) -> Example | None:
        """A row as it is, if it is kept."""
        return self._kept.get(number)

    def prepared(self, number: int) -> Example:
        """A row as it is, without what is drawn in each epoch."""
        return self.kept(number) or self._prepare(number)

    def drawn(self, example: Example, number: int) -> Example:
        """The example with modalities hidden and varied, by what is drawn for that number in this epoch."""
        if not self.modality_dropout and not self.varied:
            return example
        random = np.random.default_rng([self.seed, self.epoch, number, ROWS])
        if self.modality_dropout and not example.sides:
            example = self._hide(example, random)
        return self._vary(example, random) if self.varied else example

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def _prepare(self, number: int) -> Example:
        example = self.preparer(self.samples[number])
        if isinstance(example, RowError):  # the file changed since it was checked
            raise example
        self._kept.add(number, example)
        return example

    def _hide(self, example: Example, random: np.random.Generator) -> Example:
        names = list(example.features)
        kept = [name for name in names if random.random() >= self.modality_dropout]
        if not kept:
            kept = [names[random.integers(len(names))]]
        features = {name: example.features[name] for name in kept}
        return Example(features, example.target, self.preparer.length(features))

    def _vary(self, example: Example, random: np.random.Generator) -> Example:
        if example.sides:
            sides = tuple(self._vary(side, random) for side in example.sides)
            return Example({}, example.target, sum(side.length for side in sides), sides)
        features = dict(example.features)
        for name, found in features.items():
            processor: Any = self.preparer.processors[name]
            if _varies(processor):
                features[name] = processor.vary(found, random)
        return Example(features, example.target, self.preparer.length(features))


def _varies(processor: Processor) -> bool:
    return getattr(processor, "varies", False)


def lost_errors(lost: Lost | None) -> list[RowError]:
    """All that could not be read."""
    return [error for of_row in (lost or {}).values() for error in of_row.values()]


def without_lost(sample: Sample, lost: Lost | None) -> Sample:
    """The sample without the values that could not be read."""
    gone = (lost or {}).get((str(sample.table), sample.row))
    return replace(sample, values={**sample.values, **dict.fromkeys(gone)}) if gone else sample


def check(
    rows: Iterable[Sample | RowError], preparer: Preparer, kept: ExampleCache | None = None
) -> tuple[list[Sample], np.ndarray, list[RowError]]:
    """Prepare each row once: the good ones, their lengths int64[rows], and what is wrong with the others.

    Args:
        kept: is given the good ones, prepared, by their number among them.
    """
    good: list[Sample] = []
    lengths: list[int] = []
    bad: list[RowError] = []
    for row in rows:
        if isinstance(row, RowError):
            bad.append(row)
        elif isinstance(made := preparer(row), RowError):
            bad.append(made)
        else:
            if kept is not None:
                kept.add(len(good), made)
            good.append(without_lost(row, preparer.lost))
            lengths.append(made.length)
    return good, np.array(lengths, dtype=np.int64), bad


def report_bad_rows(
    bad: Sequence[RowError], total: int, policy: str, listed_in: Path | None, lost: Lost | None = None
) -> str | None:
    """List unusable rows, and values that rows are used without, in a file, if one is given; refuse the rows, or say
    how many are skipped. An older list goes.

    Raises:
        DataError: rows are unusable and the policy is `refuse`, or no row is left.
    """
    left_out = lost_errors(lost)
    told = sorted([*bad, *left_out], key=lambda error: (str(error.table), error.row))
    if not told:
        if listed_in is not None:
            listed_in.unlink(missing_ok=True)
        return None
    used = set(map(id, left_out))
    lines = [error.to_json() | ({"row_is_used": id(error) in used} if left_out else {}) for error in told]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    listed = ""
    if listed_in is not None:
        try:
            write_atomically(listed_in, text.encode(errors="backslashreplace"))
            listed = f". All are listed in {listed_in}"
        except OSError as error:  # which rows they are matters more
            listed = f". The list {listed_in} cannot be written: {error.strerror}"
    without = f"{len(left_out)} values cannot be read and are left out of their rows ({_named(left_out)})"
    if not bad:
        return without + listed
    summary = f"{len(bad)} of {total} rows cannot be used ({_named(bad)}){'; ' + without if left_out else ''}{listed}"
    if policy == "refuse":
        raise DataError(
            f"{summary}. Mend them, or skip them (data.bad_rows=skip in training, else --bad-rows skip, in Python "
            "bad_rows='skip'); blank uses rows without the inputs that cannot be read"
        )
    if len(bad) == total:
        raise DataError(f"{summary}. No row is left")
    return summary + " and are skipped"


def _named(errors: Sequence[RowError]) -> str:
    """The first of them."""
    first = sorted(errors, key=lambda error: (str(error.table), error.row))[:ROWS_NAMED]
    return "; ".join(map(str, first)) + ("; ..." if len(errors) > ROWS_NAMED else "")
