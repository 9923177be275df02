"""Before a recommender is trained: tables of events become histories, and what is asked about them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusebert.config import Recipe
from fusebert.data.columns import ColumnGuess
from fusebert.data.dataset import Dataset, Preparer, report_bad_rows
from fusebert.data.tables import read_table
from fusebert.errors import DataError, RowError, UsageError
from fusebert.evaluation.catalogue import Description, describe, is_described, read_catalogue, reader_hash
from fusebert.modalities.events.processor import Processor
from fusebert.modalities.values import mixed_zones
from fusebert.model.modeling import FusebertModel
from fusebert.model.pretrained import find_trunk
from fusebert.storage import file_hash
from fusebert.tasks.recommendation.config import HISTORY, NEXT, Config
from fusebert.tasks.recommendation.histories import (
    Histories,
    UserEvent,
    hold_out_newest,
    questions,
    read_events,
    whole_histories,
)
from fusebert.tasks.recommendation.leaks import leaks
from fusebert.tasks.recommendation.task import Task
from fusebert.training.prepare import BAD_ROWS, Prepared, table_name
from fusebert.training.progress import Progress
from fusebert.types import Sample

EVENTS = "events"
LEAST_READ = 2
LEAST_EVENTS = 3
"""An item that is described and has fewer training events has no vector of its own: its description stands for it."""


@dataclass(frozen=True)
class PreparedHistories(Prepared):
    """All that a recommender is trained on, and what describes its items, where something does."""

    description: Description | None = None


def prepare_histories(recipe: Recipe, folder: Path, progress: Progress) -> PreparedHistories:
    """Read everything the recipe names; unusable rows are listed in `folder`.

    Raises:
        FusebertError: the first thing that the user has to mend.
    """
    data, config = recipe.data, recipe.task_config()
    _refuse(recipe)
    tables = {"train": data.train, "validation": data.validation, "test": data.test}
    parts: dict[str, list[UserEvent]] = {}
    wrong: dict[str, list[RowError]] = {}
    for name, table in tables.items():
        if isinstance(table, Path):
            parts[name], wrong[name] = read_events(read_table(recipe.table(table)), config)
    bad = [error for found in wrong.values() for error in found]
    note = report_bad_rows(bad, len(bad) + sum(map(len, parts.values())), data.bad_rows, folder / BAD_ROWS)
    if note:
        progress.note(note)
    if config.time is None:
        progress.note("task.time is not set: events are taken in the order of the rows")
    files = {name: table_name(table) for name, table in tables.items() if table is not None}
    if isinstance(data.validation, float):
        parts["train"], parts["validation"] = hold_out_newest(parts["train"], data.validation)
        files["validation"] = f"the newest {data.validation:.0%} of {files['train']}"
        parts = {name: parts[name] for name in tables if name in parts}  # in the order of time
    for name in parts:
        if not parts[name]:
            held_out = isinstance(data.validation, float) and name != "test"
            raise DataError(f"the {name} part has no events{'; change data.validation' * held_out}")
    trained = whole_histories(parts["train"])
    processor = Processor.fit(recipe.modality_config(EVENTS), [HISTORY], trained, None)
    processor, task, description = _with_catalogue(recipe, config, processor, parts["train"], progress)
    preparer = Preparer({EVENTS: processor}, task, NEXT)
    masked = config.mask_rate if config.objective == "masked" else None
    splits: dict[str, Any] = {
        "train": Histories(trained, preparer, masked, recipe.training.seed),
        "validation": _asked(preparer, parts["train"], parts["validation"], len(wrong.get("validation", ()))),
    }
    if "test" in parts:
        splits["test"] = _asked(preparer, [*parts["train"], *parts["validation"]], parts["test"], len(wrong["test"]))
    warnings = [f"leak: {said}" if is_leak else said for is_leak, said in leaks(parts, config.repeats)]
    if why := mixed_zones(Counter(one.event.zoned for part in parts.values() for one in part)):
        warnings.append(f"column {config.time!r}: {why}")
    for said in warnings:
        progress.note(f"Warning: {said}")
    users, items = len(trained), len(task.items)
    progress.note(f"{len(parts['train']):,} training events of {users:,} users; {items:,} items can be recommended")
    columns = [ColumnGuess(HISTORY, EVENTS, f"what a {config.user} did before")]
    trunk = find_trunk(recipe.model.trunk)
    found = _hash(parts, processor, None if config.catalogue is None else recipe.table(config.catalogue))
    processors = {EVENTS: processor}
    return PreparedHistories(columns, NEXT, task, processors, splits, files, trunk, found, warnings, description)


def start_at_histories(model: FusebertModel, prepared: PreparedHistories) -> None:
    """Begin by guessing items by how often each occurs, and with what describes them."""
    processor: Any = prepared.processors[EVENTS]
    samples = prepared.splits["train"].samples
    codes = [processor.code(event.item) for sample in samples for event in sample.values[HISTORY]]
    head: Any = model.head
    head.start_at_frequencies(torch.bincount(torch.tensor(codes), minlength=1 + len(processor.items))[1:])
    if (found := prepared.description) is not None:
        embedder: Any = model.embedders[EVENTS]
        embedder.describe(torch.from_numpy(found.vectors), torch.from_numpy(found.centre), found.scale)


def _refuse(recipe: Recipe) -> None:
    """Settings that have no meaning here."""
    if recipe.data.train is None:
        raise UsageError("data.train is not set: name the table of events to train on")
    if recipe.data.validation_group is not None:
        raise UsageError("data.validation_group is set, but the newest events of all users are held out; leave it out")
    for key, value in (("data.target", recipe.data.target), ("data.columns", recipe.data.columns)):
        if value:
            raise UsageError(f"{key} is set, but task.name=recommendation reads task.user, task.item, task.time, ...")
    if recipe.model.modality_dropout or recipe.model.fusion != "one_stream":
        raise UsageError("task.name=recommendation reads events alone; leave out model.fusion and modality_dropout")
    if others := sorted(recipe.modalities.keys() - {EVENTS}):
        raise UsageError(f"settings of {', '.join(others)} are given, but task.name=recommendation reads events alone")
    if recipe.modality_config(EVENTS).max_events < LEAST_READ:
        raise UsageError(f"events.max_events counts the event to be guessed, so it is at least {LEAST_READ} here")
    if "content" in recipe.task and "catalogue" not in recipe.task:
        raise UsageError("task.content is set, but no task.catalogue for it to read")


def _asked(preparer: Preparer, known: Sequence[UserEvent], asked: Sequence[UserEvent], skipped: int) -> Dataset:
    rows = list(questions(known, asked))
    longest = preparer.processors[EVENTS].config.max_events  # type: ignore[attr-defined]
    lengths = np.array([1 + min(longest, 1 + len(row.values[HISTORY])) for row in rows])
    return Dataset(rows, lengths, preparer, skipped=skipped)


def _with_catalogue(
    recipe: Recipe, config: Config, fitted: Processor, done: Sequence[UserEvent], progress: Progress
) -> tuple[Processor, Task, Description | None]:
    """The processor and the task with all items that can be recommended, and what describes them."""
    items, trained = list(fitted.items), len(fitted.items)
    known = {one.event.item for one in done}
    made: dict[str, Any] = {"asks_next": True}
    description = own = hashed = None
    if config.catalogue is not None:
        table = recipe.table(config.catalogue)
        rows = read_catalogue(read_table(table), config.item)
        if not rows:
            raise DataError(f"the catalogue {table} has no rows")
        _compare(table, items, rows, progress)
        items = list(dict.fromkeys([*items, *rows]))[: fitted.config.max_items]
        known |= rows.keys()
        if config.content is not None:
            described = {
                name: row for name, row in rows.items() if is_described(row, row.values.keys() - {config.item})
            }
            if not described:
                raise DataError(f"task.content is set, but no row of {table} says more than the name of its item")
            counts = Counter(one.event.item for one in done)
            least = {name: LEAST_EVENTS if name in described else 1 for name in items}
            owns = {name: counts[name] >= least[name] for name in items}
            items.sort(key=lambda name: not owns[name])
            description = describe(config.content, config.item, [described.get(name) for name in items])
            hashed, own = reader_hash(config.content), sum(owns.values())
            by = hashed or config.content
            made |= {"content_size": len(description.centre), "own_vectors": own, "described_by": by}
    if lost := len(known) - len(items):
        most = f"events.max_items={fitted.config.max_items}"
        progress.note(f"Warning: {lost:,} of {len(known):,} items cannot be recommended, as {most}")
    processor = Processor(
        fitted.config.model_copy(update=made),
        fitted.columns,
        items,
        fitted.types,
        fitted.mean,
        fitted.deviation,
    )
    return processor, Task(config, items, trained, own, hashed, description.columns if description else ()), description


def _compare(table: Path, trained: Sequence[str], rows: Mapping[str, Sample], progress: Progress) -> None:
    """Say how many items of the training events a catalogue lacks. Raises DataError where it lacks all."""
    missing = [name for name in trained if name not in rows]
    of = f"{len(trained):,} items of the training events"
    if len(missing) == len(trained):
        raise DataError(
            f"{table}: none of the {of} is in it; they are named as {missing[0]!r}, and its items as "
            f"{next(iter(rows))!r}; write both in the same way"
        )
    warning = "Warning: " if 2 * len(missing) > len(trained) else ""
    progress.note(f"{warning}{table}: {len(rows):,} items; {len(missing):,} of the {of} are not among them")


def _hash(parts: dict[str, list[UserEvent]], processor: Processor, catalogue: Path | None) -> str:
    found = hashlib.sha256()
    for name in ("train", "validation"):
        for one in parts[name]:
            found.update(repr((one.user, one.event)).encode(errors="backslashreplace"))
    found.update(repr(processor.items).encode(errors="backslashreplace"))
    if catalogue is not None:  # what is computed of it differs in its last bits from machine to machine
        found.update(file_hash(catalogue).encode())
    return found.hexdigest()
