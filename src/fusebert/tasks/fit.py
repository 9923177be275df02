"""The task that a recipe asks for, fitted on its training rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pydantic import ValidationError

from fusebert import plugins
from fusebert.config import Recipe
from fusebert.data.columns import IGNORE, ColumnGuess, column_names, guess_task
from fusebert.data.dataset import Lost, Preparer
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RecipeError, RowError, UsageError
from fusebert.modalities.base import Processor
from fusebert.section import wrong_setting
from fusebert.tasks.base import Task
from fusebert.types import Sample, is_given

TARGET_NAMES = ("target", "label", "labels", "answer", "class", "category", "score", "rating")


def fitted_task(recipe: Recipe) -> Task:
    """The task of a recipe on its training table, before anything else is read. Raises FusebertError."""
    task = without_target(recipe)
    if task is None:
        if recipe.data.train is None:
            raise UsageError("data.train is not set: name the table to train on")
        table = recipe.table(recipe.data.train)
        rows = list(read_table(table))
        samples = [row for row in rows if isinstance(row, Sample)]
        if not samples:
            raise next((row for row in rows if isinstance(row, RowError)), DataError(f"{table} has no rows"))
        _, task = fit_task(recipe, pick_target(recipe.data.target, samples), samples)
    return task


def without_target(recipe: Recipe) -> Task | None:
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


def only_sides(columns: Sequence[ColumnGuess], task: Any, samples: Sequence[Sample]) -> list[ColumnGuess]:
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


def refuse_ambiguous(columns: Sequence[ColumnGuess], of_target: Sequence[ColumnGuess]) -> None:
    """Raise UsageError where what a column, or the target, was taken for is doubtful."""
    keys = {guess: f"data.columns.{guess.column}=..." for guess in columns} | dict.fromkeys(of_target, "task.name=...")
    doubtful = [guess for guess in keys if guess.ambiguous]
    if doubtful:
        settings = ", ".join(keys[guess] for guess in doubtful)
        raise UsageError(f"--strict: {'; '.join(map(str, doubtful))}; settle it with {settings}")


def preparers(
    processors: Mapping[str, Processor], task: Any, target: str | None, lost: Lost | None = None
) -> tuple[Preparer, Preparer]:
    """Of rows that are asked about, and of rows to learn from, which have hard negatives where the task has them."""
    sides = getattr(task, "sides", ())
    negatives = getattr(task, "hard_negatives", None)
    return (
        Preparer(processors, task, target, sides, lost=lost),
        Preparer(processors, task, target, sides, negatives, lost=lost),
    )


def pick_target(named: str | None, samples: Sequence[Sample]) -> str:
    """The target column, which has to be named. Raises UsageError where it is not, or not there."""
    found = column_names(samples)
    if named is not None:
        if named not in found:
            has = ", ".join(name if name == name.strip() else repr(name) for name in found)
            raise UsageError(f"the target column {named!r} does not exist; {samples[0].table} has {has}")
        return named
    likely = [name for name in found if name.lower() in TARGET_NAMES]
    hint = f"data.target={likely[0] if likely else 'COLUMN'}"
    table_has = f"{samples[0].table} has {', '.join(found)}"
    raise UsageError(f"no target is set; say which column to predict, with {hint} ({table_has})")


def fit_task(recipe: Recipe, target: str, samples: Sequence[Sample]) -> tuple[ColumnGuess, Task]:
    """What the target was taken for, and the task fitted on it. Raises DataError, or RecipeError for its settings."""
    targets = given_targets(samples, target)
    if not targets:
        raise DataError(f"{samples[0].table}: no row has a value in the target column {target!r}")
    named = recipe.task.get("name")
    guess = ColumnGuess(target, named, "task as set") if named else guess_task(target, targets)
    fitted = plugins.load("tasks", guess.kind, "task").Task
    if not (good := readable(fitted, targets)):
        why = _why(fitted, targets[0])
        raise DataError(f"{samples[0].table}, column {target!r}: no value will do for {guess.kind}: {why}")
    try:
        with naming_column(samples, target):
            return guess, fitted.fit(recipe.task_config(guess.kind), good)
    except ValidationError as error:
        said = wrong_setting(error, "task.")
        raise RecipeError(f"{said}; the target {target!r} was taken for one of {guess.kind}") from None


@contextmanager
def naming_column(samples: Sequence[Sample], target: str) -> Iterator[None]:
    """Errors within it are about this column."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{samples[0].table}, column {target!r}: {error}") from None


def _why(task: type[Task], target: Any) -> str:
    try:
        task.read(target)
    except InputError as error:
        return str(error)
    return ""


def given_targets(samples: Sequence[Sample], target: str) -> list[Any]:
    """The raw targets of the rows that have one."""
    return [sample.values[target] for sample in samples if is_given(sample.values.get(target))]


def readable(task: Task | type[Task], targets: Sequence[Any]) -> list[Any]:
    """Targets that can be read; the others are reported with their rows by `check`, and must not disturb the fit."""
    found = []
    for raw in targets:
        with suppress(InputError):
            task.read(raw)
            found.append(raw)
    return found
