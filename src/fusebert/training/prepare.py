"""Before training: every row read and checked, columns and task settled, processors and task fitted on train rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusebert import plugins
from fusebert.config import Recipe
from fusebert.data.columns import IGNORE, ColumnGuess, by_side, guess_columns
from fusebert.data.dataset import Dataset, ExampleCache, Lost, Preparer, check, lost_errors, report_bad_rows
from fusebert.data.split import hold_out
from fusebert.data.tables import read_table, track_absent_columns
from fusebert.errors import DataError, RowError, UsageError
from fusebert.evaluation.unfamiliar import no_such_columns
from fusebert.modalities.files import DecodedFiles, files_of, media_of
from fusebert.modalities.values import content_key
from fusebert.model.pretrained import find_trunk
from fusebert.tasks.base import Task
from fusebert.tasks.fit import (
    fit_task,
    given_targets,
    naming_column,
    only_sides,
    pick_target,
    preparers,
    readable,
    refuse_ambiguous,
    without_target,
)
from fusebert.training.progress import Progress
from fusebert.types import Sample

BAD_ROWS = "bad_rows.jsonl"


@dataclass(frozen=True)
class Prepared:
    """All that a run reads, checked.

    Args:
        columns: what each input column was taken for.
        target: the column to predict; of sides to match their names, in words.
        splits: `train`, `validation` and, where the recipe names one, `test`; each a `Split`, of a table a `Dataset`.
        files: the name of the table behind each split.
        trunk_folder: of the pretrained trunk; None when it starts from nothing.
        data_hash: of every value in the rows of training and validation, and of the media files that they name.
        warnings: what the data give away, in words.
    """

    columns: list[ColumnGuess]
    target: str
    task: Task
    processors: dict[str, Any]
    splits: dict[str, Any]
    files: dict[str, str]
    trunk_folder: Path | None
    data_hash: str
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Settled:
    """What the training table asks for.

    Args:
        columns: what each input column was taken for.
        task: fitted on the whole table, as a label may be so rare that all of it is held out.
        target: the column to predict; of sides to match their names, in words; empty for neither.
        target_column: None where there is none, or it is left alone.
        of_target: what that was taken for.
    """

    columns: list[ColumnGuess]
    task: Task
    target: str
    target_column: str | None
    of_target: list[ColumnGuess]


def prepare(recipe: Recipe, folder: Path, strict: bool, progress: Progress, task: Task | None = None) -> Prepared:
    """Read everything the recipe names; unusable rows are listed in `folder`.

    Args:
        task: one that asks for no target; if the recipe names a target column, it is left alone.

    Raises:
        FusebertError: the first thing that the user has to mend.
    """
    data = recipe.data
    samples, unreadable = _read_training_rows(recipe, folder)
    files = {"train": table_name(data.train)}
    splits: dict[str, Iterable[Sample | RowError]] = {}
    with _lost_rows_first(samples, unreadable, data.bad_rows, folder / BAD_ROWS):
        settled = _settle(recipe, samples, task)
        if isinstance(data.validation, float):
            samples, splits["validation"] = hold_out(samples, data.validation, data.validation_group)
            files["validation"] = f"{data.validation:.0%} of {table_name(data.train)}, held out"
            _adjust(settled, samples)
    for name, table in (("validation", data.validation), ("test", data.test)):
        if isinstance(table, Path):
            splits[name], files[name] = read_table(recipe.table(table)), table_name(table)
    columns, task, target_column = settled.columns, settled.task, settled.target_column
    for guess in [*columns, *settled.of_target]:
        progress.note(str(guess))
    if strict:
        refuse_ambiguous(columns, settled.of_target)
    for name in sorted(recipe.modalities.keys() - {guess.kind for guess in columns}):
        progress.note(f"Warning: {name}.{next(iter(recipe.modalities[name]))} is set, but no column is {name}")
    trunk_folder = find_trunk(recipe.model.trunk)
    processors = _fit_processors(recipe, columns, samples, trunk_folder)
    for read in _files(processors):
        read.contents = {}
    splits["train"] = [*unreadable, *samples]
    inputs = {guess.column for guess in columns if guess.kind != IGNORE}
    absent = {name: set(inputs) for name in splits if name != "train"}
    splits |= {name: track_absent_columns(iter(splits[name]), absent[name]) for name in absent}
    lost: Lost | None = {} if data.bad_rows == "blank" else None
    asking, learning = preparers(processors, task, target_column, lost)
    checked = _check(splits, dict.fromkeys(splits, asking) | {"train": learning}, recipe, folder, progress, lost)
    warnings = [f"{name}: {no_such_columns(found)}" for name, found in absent.items() if found]
    warnings += [
        f"{name} is the table of the training rows; scores on it say nothing of others"
        for name in ("validation", "test")
        if isinstance(table := getattr(data, name), Path) and _place(recipe, table) == _place(recipe, data.train)
    ]
    asked = by_side(samples, getattr(task, "sides", ()))
    if target_column is not None and hasattr(task, "doubts"):
        warnings += task.doubts(readable(task, given_targets(samples, target_column)))
    if target_column is not None and hasattr(task, "unshared"):
        parts = (given_targets(checked[name].samples, target_column) for name in ("train", "validation"))
        warnings += task.unshared(*parts)
    for processor in processors.values():
        warnings += processor.doubts(asked) if hasattr(processor, "doubts") else []
    found = _hash(checked, _contents(processors))
    for said in warnings:
        progress.note(f"Warning: {said}")
    return Prepared(columns, settled.target, task, processors, checked, files, trunk_folder, found, warnings)


def _read_training_rows(recipe: Recipe, folder: Path) -> tuple[list[Sample], list[RowError]]:
    """The rows of the training table, and those that cannot even be read."""
    data = recipe.data
    if data.train is None:
        raise UsageError("data.train is not set: name the table to train on")
    if data.validation_group is not None and not isinstance(data.validation, float):
        raise UsageError("data.validation_group is set, but data.validation is a table: nothing is held out by groups")
    rows = list(read_table(recipe.table(data.train)))
    samples = [row for row in rows if isinstance(row, Sample)]
    unreadable = [row for row in rows if isinstance(row, RowError)]
    if not samples:
        report_bad_rows(unreadable, len(rows), data.bad_rows, folder / BAD_ROWS)
        raise DataError(f"{recipe.table(data.train)} has no rows")
    return samples, unreadable


def _settle(recipe: Recipe, samples: Sequence[Sample], task: Task | None) -> Settled:
    data, task = recipe.data, task or without_target(recipe)
    target = pick_target(data.target, samples) if task is None or data.target is not None else None
    columns = guess_columns(samples, target, data.columns)
    if task is None:
        guess, task = fit_task(recipe, str(target), samples)
        return Settled(columns, task, str(target), target, [guess])
    if sides := getattr(task, "sides", ()):
        columns, target = only_sides(columns, task, samples), " and ".join(", ".join(side) for side in sides)
    return Settled(columns, task, target or "", None, [])


def _adjust(settled: Settled, samples: Sequence[Sample]) -> None:
    """Let the task look at the rows that are left to learn from, once others are held out."""
    task: Any = settled.task
    if settled.target_column is not None and hasattr(task, "adjust"):
        with naming_column(samples, settled.target_column):
            task.adjust(readable(task, given_targets(samples, settled.target_column)))


def _place(recipe: Recipe, table: Any) -> Path:
    """The file itself, whichever way a setting names it."""
    return recipe.table(table).resolve()


def table_name(table: Any) -> str:
    """What a model card calls it: not where on this machine it lies."""
    return Path(str(table)).absolute().name


def _contents(processors: Mapping[str, Any]) -> dict[str, bytes]:
    """The digests of all media files that were read, by path; no more are noted."""
    contents: dict[str, bytes] = {}
    for files in _files(processors):
        contents |= files.contents or {}
        files.contents = None
    return contents


def _files(processors: Mapping[str, Any]) -> list[DecodedFiles]:
    """Those of each modality that reads files."""
    found = [getattr(processor, "files", None) for processor in processors.values()]
    return [files for files in found if isinstance(files, DecodedFiles)]


def _hash(datasets: Mapping[str, Dataset], contents: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name in ("train", "validation"):
        found.update(datasets[name].lengths.tobytes())
        for sample in datasets[name].samples:
            values = [(column, _told(value)) for column, value in sorted(sample.values.items())]
            found.update(repr(values).encode(errors="backslashreplace"))
            if contents:
                for _, value in sorted(sample.values.items()):
                    for file in files_of(value):
                        found.update(contents.get(_path(media_of(file), sample.root), b""))
    return found.hexdigest()


def _path(value: Any, root: Path | None) -> str:
    """Where a media file that a row names lies; of other values it names none."""
    return str(Path(value) if root is None else root / value) if isinstance(value, str) else ""


def _told(value: Any) -> Any:
    """The value, or a digest of each file within a row, which is long."""
    if isinstance(value, list):
        return [_told(one) for one in value]
    data = value.get("bytes") if isinstance(value, dict) else value
    return content_key(data) if isinstance(data, bytes) else value


@contextmanager
def _lost_rows_first(
    samples: Sequence[Sample], unreadable: Sequence[RowError], bad_rows: str, listed_in: Path
) -> Iterator[None]:
    """Where something cannot be done with the rows that are left, those that were lost may be the reason."""
    total = len(samples) + len(unreadable)
    try:
        yield
    except DataError:
        report_bad_rows(unreadable, total, bad_rows, listed_in)
        raise


def _fit_processors(
    recipe: Recipe, columns: Sequence[ColumnGuess], samples: Sequence[Sample], trunk_folder: Path | None
) -> dict[str, Any]:
    by_modality: dict[str, list[str]] = {}
    for guess in columns:
        if guess.kind != IGNORE:
            by_modality.setdefault(guess.kind, []).append(guess.column)
    processors = {}
    for name, its_columns in sorted(by_modality.items()):
        config = recipe.modality_config(name)
        heavy = plugins.load("modalities", name, "embedder")
        if hasattr(heavy, "prepare"):
            config = heavy.prepare(config)
        half = plugins.load("modalities", name, "processor")
        processors[name] = half.Processor.fit(config, its_columns, samples, trunk_folder)
    return processors


def _check(
    splits: dict[str, Iterable[Sample | RowError]],
    preparers: Mapping[str, Preparer],
    recipe: Recipe,
    folder: Path,
    progress: Progress,
    lost: Lost | None,
) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    bad: list[RowError] = []
    for name, rows in splits.items():
        kept = ExampleCache()
        lost_before = len(lost_errors(lost))
        good, lengths, wrong = check(rows, preparers[name], kept)
        bad += wrong
        learnt = name == "train"
        hidden, seed = recipe.model.modality_dropout if learnt else 0.0, recipe.training.seed
        lost_values = len(lost_errors(lost)) - lost_before
        datasets[name] = Dataset(
            good, lengths, preparers[name], hidden, seed, kept, len(wrong), varied=learnt, lost_values=lost_values
        )
    for preparer in preparers.values():
        preparer.lost = None  # what cannot be read any more, once training has begun, ends it
    total = sum(map(len, datasets.values())) + len(bad)
    note = report_bad_rows(bad, total, recipe.data.bad_rows, folder / BAD_ROWS, lost)
    if note:
        progress.note(note)
    for name, dataset in datasets.items():
        if len(dataset) == 0:
            raise DataError(f"the {name} part has no rows")
    return datasets
