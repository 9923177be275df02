"""Before training: every row read and checked, columns and task settled, processors and task fitted on train rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fusebert import plugins
from fusebert.config import Recipe
from fusebert.data.columns import IGNORE, ColumnGuess, column_names, guess_columns, guess_task
from fusebert.data.dataset import Dataset, Kept, Preparer, check, settle
from fusebert.data.split import hold_out
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RecipeError, RowError, UsageError
from fusebert.model.pretrained import find_trunk
from fusebert.tasks.base import Task
from fusebert.training.progress import Progress
from fusebert.types import Sample

BAD_ROWS = "bad_rows.jsonl"
TARGET_NAMES = ("target", "label", "labels", "answer", "class", "category", "score", "rating")


@dataclass(frozen=True)
class Prepared:
    """All that a run reads, checked.

    Args:
        columns: what each input column was taken for.
        splits: `train`, `validation` and, where the recipe names one, `test`.
        files: the table behind each split, as the recipe writes it.
        trunk_folder: of the pretrained trunk; None when it starts from nothing.
        data_hash: of every value that training and validation read, media files by name.
        warnings: what the data give away, in words.
    """

    columns: list[ColumnGuess]
    target: str
    task: Task
    processors: dict[str, Any]
    splits: dict[str, Dataset]
    files: dict[str, str]
    trunk_folder: Path | None
    data_hash: str
    warnings: Sequence[str] = ()


def prepare(recipe: Recipe, folder: Path, strict: bool, progress: Progress, task: Task | None = None) -> Prepared:
    """Read everything the recipe names; unusable rows are listed in `folder`.

    Args:
        task: one that asks for no target; if the recipe names a target column, it is left alone.

    Raises:
        FusebertError: the first thing that the user has to mend.
    """
    data = recipe.data
    if data.train is None:
        raise UsageError("data.train is not set: name the table to train on")
    rows = list(read_table(recipe.table(data.train)))
    samples = [row for row in rows if isinstance(row, Sample)]
    unreadable = [row for row in rows if isinstance(row, RowError)]
    if not samples:
        settle(unreadable, len(rows), data.bad_rows, folder / BAD_ROWS)
        raise DataError(f"{recipe.table(data.train)} has no rows")
    task = task or _without_target(recipe)
    lost_rows_first = partial(_lost_rows_first, unreadable, len(rows), data.bad_rows, folder / BAD_ROWS)
    target = _target(data.target, samples) if task is None or data.target is not None else None
    with lost_rows_first():
        columns = guess_columns(samples, target, data.columns)
    sides = getattr(task, "sides", ())
    if sides:
        columns, target = _only(columns, task, samples), " and ".join(", ".join(side) for side in sides)
    kind, targets = [], target if task is None else None
    if task is None:
        with lost_rows_first():  # on the whole table: a label may be so rare that all of it is held out
            guess, task = _fit_task(recipe, str(target), samples)
        kind = [guess]
    files = {"train": str(data.train)}
    splits: dict[str, Iterable[Sample | RowError]] = {}
    if isinstance(data.validation, float):
        with lost_rows_first():
            samples, held_out = hold_out(samples, data.validation, data.validation_group)
        if targets is not None and hasattr(task, "adjust"):
            task.adjust(_readable(task, _given(samples, targets)))
        splits["validation"] = held_out
        files["validation"] = f"{data.validation:.0%} of {data.train}, held out"
    else:
        splits["validation"], files["validation"] = read_table(recipe.table(data.validation)), str(data.validation)
    if data.test is not None:
        splits["test"], files["test"] = read_table(recipe.table(data.test)), str(data.test)
    _say(columns, kind, strict, progress)
    trunk_folder = find_trunk(recipe.model.trunk)
    processors = _fit_processors(recipe, columns, samples, trunk_folder)
    splits["train"] = [*unreadable, *samples]
    asking = Preparer(processors, task, targets, sides)
    learning = Preparer(processors, task, targets, sides, getattr(task, "hard_negatives", None))
    checked = _check(splits, dict.fromkeys(splits, asking) | {"train": learning}, recipe, folder, progress)
    return Prepared(columns, target or "", task, processors, checked, files, trunk_folder, _hash(checked))


def _without_target(recipe: Recipe) -> Task | None:
    """The task that the recipe names, if it is one that asks for no target."""
    named = recipe.task.get("name")
    kind = plugins.load("tasks", named, "task").Task if named else None
    if kind is None or getattr(kind, "needs_target", True):
        return None
    if recipe.data.target is not None:
        raise UsageError(f"data.target is set, but task.name={named} asks for no target; leave one of them out")
    if recipe.model.modality_dropout:
        raise UsageError(f"task.name={named} needs both sides of a row whole; leave out model.modality_dropout")
    fitted: Task = kind.fit(recipe.task_config(), [])
    return fitted


def _only(columns: Sequence[ColumnGuess], task: Any, samples: Sequence[Sample]) -> list[ColumnGuess]:
    """The columns of the sides as they were taken, all others ignored."""
    kinds = {guess.column: guess for guess in columns}
    named = [name for side in task.sides for name in side]
    for name in [*named, *task.hard_negatives.values()]:
        if name not in kinds:
            raise UsageError(f"{samples[0].table} has no column {name!r} to match, only {', '.join(kinds)}")
    for name in named:
        if kinds[name].kind == IGNORE:
            raise UsageError(f"{kinds[name]}; say what it is with data.columns.{name}=MODALITY")
    why = dict.fromkeys(task.hard_negatives.values(), "read as a hard negative")
    return [
        g if g.column in named else ColumnGuess(g.column, IGNORE, why.get(g.column, "on neither side")) for g in columns
    ]


def _hash(datasets: Mapping[str, Dataset]) -> str:
    found = hashlib.sha256()
    for name in ("train", "validation"):
        found.update(datasets[name].lengths.tobytes())
        for sample in datasets[name].samples:
            found.update(repr(sorted(sample.values.items())).encode(errors="backslashreplace"))
    return found.hexdigest()


def fitted_task(recipe: Recipe) -> Task:
    """The task of a recipe on its training table, before anything else is read. Raises FusebertError."""
    task = _without_target(recipe)
    if task is None:
        if recipe.data.train is None:
            raise UsageError("data.train is not set: name the table to train on")
        table = recipe.table(recipe.data.train)
        rows = list(read_table(table))
        samples = [row for row in rows if isinstance(row, Sample)]
        if not samples:
            raise next((row for row in rows if isinstance(row, RowError)), DataError(f"{table} has no rows"))
        _, task = _fit_task(recipe, _target(recipe.data.target, samples), samples)
    return task


@contextmanager
def _lost_rows_first(unreadable: Sequence[RowError], total: int, bad_rows: str, listed_in: Path) -> Iterator[None]:
    """Where something cannot be done with the rows that are left, those that were lost may be the reason."""
    try:
        yield
    except DataError:
        settle(unreadable, total, bad_rows, listed_in)
        raise


def _target(named: str | None, samples: Sequence[Sample]) -> str:
    found = column_names(samples)
    if named is not None:
        if named not in found:
            raise UsageError(f"the target column {named!r} does not exist; {samples[0].table} has {', '.join(found)}")
        return named
    likely = [name for name in found if name.lower() in TARGET_NAMES]
    hint = f"--target {likely[0]}" if likely else "--target COLUMN"
    table_has = f"{samples[0].table} has {', '.join(found)}"
    raise UsageError(f"no target is set; say which column to predict, with {hint} ({table_has})")


def _fit_task(recipe: Recipe, target: str, samples: Sequence[Sample]) -> tuple[ColumnGuess, Task]:
    targets = _given(samples, target)
    if not targets:
        raise DataError(f"{samples[0].table}: no row has a value in the target column {target!r}")
    named = recipe.task.get("name")
    guess = ColumnGuess(target, named, "task as set") if named else guess_task(target, targets)
    fitted = plugins.load("tasks", guess.kind, "task").Task
    try:
        return guess, fitted.fit(recipe.task_config(guess.kind), _readable(fitted, targets))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["task", *map(str, first["loc"])])
        raise RecipeError(
            f"{key}={first.get('input')!r} will not do for {guess.kind}, which the target {target!r} was taken for: "
            f"{first['msg']}"
        ) from None
    except DataError as error:
        raise DataError(f"{samples[0].table}, column {target!r}: {error}") from None


def _given(samples: Sequence[Sample], target: str) -> list[Any]:
    return [sample.values[target] for sample in samples if sample.values.get(target) not in (None, "")]


def _readable(task: Task | type[Task], targets: Sequence[Any]) -> list[Any]:
    """Targets that can be read; the others are reported with their rows by `check`, and must not disturb the fit."""
    found = []
    for raw in targets:
        with suppress(InputError):
            task.read(raw)
            found.append(raw)
    return found


def _say(columns: Sequence[ColumnGuess], kind: Sequence[ColumnGuess], strict: bool, progress: Progress) -> None:
    guesses = [*columns, *kind]
    for guess in guesses:
        progress.note(str(guess))
    doubtful = [guess for guess in guesses if guess.ambiguous]
    if strict and doubtful:
        settings = ", ".join(f"data.columns.{guess.column}=..." for guess in columns if guess.ambiguous)
        settings = settings or "task.name=..."
        raise UsageError(f"--strict: {'; '.join(map(str, doubtful))}; settle it with {settings}")


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
) -> dict[str, Dataset]:
    datasets: dict[str, Dataset] = {}
    bad: list[RowError] = []
    for name, rows in splits.items():
        kept = Kept()
        good, lengths, wrong = check(rows, preparers[name], kept)
        bad += wrong
        learnt = name == "train"
        hidden, seed = recipe.model.modality_dropout if learnt else 0.0, recipe.training.seed
        datasets[name] = Dataset(good, lengths, preparers[name], hidden, seed, kept, len(wrong), varied=learnt)
    note = settle(bad, sum(map(len, datasets.values())) + len(bad), recipe.data.bad_rows, folder / BAD_ROWS)
    if note:
        progress.note(note)
    for name, dataset in datasets.items():
        if len(dataset) == 0:
            raise DataError(f"the {name} part has no rows")
    return datasets
