"""The items that can be recommended, what describes each, and items that come after training."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fusebert.data.tables import Rows
from fusebert.errors import InputError, ModelError, RowError, UsageError
from fusebert.evaluation.encode import Encoder
from fusebert.evaluation.loading import read_predictor
from fusebert.evaluation.predictor import PREDICTOR, Predictor
from fusebert.evaluation.vectors import embed, side_columns
from fusebert.modalities.values import as_category, is_missing, without_fraction
from fusebert.model.modeling import FusebertModel
from fusebert.storage import MANIFEST, file_hash
from fusebert.tasks.recommendation.task import Task
from fusebert.types import Sample, is_given

EVENTS = "events"
P = TypeVar("P", bound=Predictor)


@dataclass(frozen=True, slots=True)
class Description:
    """What describes items: vectors float32[items, C], made of those of a reader, less their `centre` float32[C], by
    their `scale`; zeros for an item that nothing describes. It reads `columns` of the catalogue, in that order."""

    vectors: np.ndarray
    centre: np.ndarray
    scale: float
    columns: Sequence[str]


def read_catalogue(rows: Rows, item: str) -> dict[str, Sample]:
    """The rows of a catalogue by the name of their item, which stands in the column `item`, each once."""
    found: dict[str, Sample] = {}
    for name, row in _named(rows, item):
        if name in found:
            raise row.error(f"{name!r} stands in row {found[name].row}, too", item)
        found[name] = row
    return found


def item_names(rows: Rows, item: str) -> list[str]:
    """The different items that a table names."""
    return list(dict.fromkeys(name for name, _ in _named(rows, item)))


def _named(rows: Rows, item: str) -> Iterator[tuple[str, Sample]]:
    for row in rows:
        if isinstance(row, RowError):
            raise row
        if is_missing(raw := row.values.get(item)):
            why = "it names no item" if item in row.values else f"no such column, only {', '.join(row.values)}"
            raise row.error(why, item)
        try:
            yield as_category(raw), row
        except InputError as error:
            raise row.error(str(error), item) from None


def is_described(row: Sample, columns: Iterable[str]) -> bool:
    """Whether a row of a catalogue says something in one of the columns."""
    return any(is_given(value := row.values.get(column)) and not is_missing(value) for column in columns)


def describe(reader: str, item: str, rows: Sequence[Sample | None]) -> Description:
    """What a model makes of each row of the catalogue, centred, of length 1 on average; None is an item without a row.

    Args:
        reader: as `read_with` takes it.
    """
    places = [place for place, row in enumerate(rows) if row is not None]
    described = [row for row in rows if row is not None]
    columns = columns_to_read(reader, item, described)
    vectors = read_with(reader, columns, described)
    centre = vectors.mean(axis=0)
    vectors = vectors - centre
    scale = max(float(np.sqrt((vectors**2).sum(axis=1).mean())), 1e-6)
    content = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    content[places] = vectors / scale
    return Description(content, centre, scale, columns)


def columns_to_read(reader: str, item: str, rows: Sequence[Sample]) -> Sequence[str]:
    """The columns of a catalogue that a model reads: all but `item`, or those of the side of a matching model that is
    there. Raises UsageError where neither is."""
    there = dict.fromkeys(column for row in rows for column in row.values)
    if not (Path(reader) / PREDICTOR).is_file():
        return [column for column in there if column != item]
    sides = side_columns(read_predictor(reader, Predictor)).values()
    if (side := next((columns for columns in sides if {*columns} <= there.keys()), None)) is None:
        needed = " or ".join(map(", ".join, sides))
        raise UsageError(f"task.content={reader} reads {needed}, which {rows[0].table} does not have")
    return side


def read_with(reader: str, columns: Sequence[str], rows: Sequence[Sample]) -> np.ndarray:
    """float32[rows, C]: what a model makes of those columns of each row.

    Args:
        reader: a BERT, which reads them as one text; or the folder of a matching model, which has a side of them.
    """
    if (Path(reader) / PREDICTOR).is_file():
        return _matched(Path(reader), columns, rows)
    return Encoder(reader).encode([_text(row.values.get(column) for column in columns) for row in rows])


def reader_hash(reader: str) -> str | None:
    """Tells whether a folder holds the same model as before; None for what is known by its name alone."""
    manifest = Path(reader) / MANIFEST
    return file_hash(manifest) if manifest.is_file() else None


def with_items(predictor: P, rows: Rows) -> P:
    """A recommender that also knows the new items of a catalogue, by their description.

    Raises:
        UsageError: it is no recommender, nothing describes its items, or the catalogue lacks a column of what does.
        ModelError: the model that described them is another one now.
        DataError: a row names no item, or one that another names, too.
    """
    task: Any = predictor.task
    if not isinstance(task, Task):
        raise UsageError(f"{predictor.folder} answers with {task.name}; only a recommender has a catalogue")
    reader = task.config.content
    if reader is None:
        raise UsageError(
            f"{predictor.folder} was trained without task.content, so nothing tells new items apart; train it with "
            "task.catalogue and task.content"
        )
    if task.reader_hash is not None and not Path(reader).is_dir():
        raise ModelError(f"{reader}, which described the items, is not there, as seen from where you are")
    if task.reader_hash is not None and reader_hash(reader) != task.reader_hash:
        raise ModelError(f"{reader} is not the model that described the items when {predictor.folder} was trained")
    known = set(task.items)
    catalogue = read_catalogue(rows, task.config.item)
    new = {name: row for name, row in catalogue.items() if name not in known}
    if not new:
        return predictor
    columns = task.content_columns or columns_to_read(reader, task.config.item, list(new.values()))
    if lost := [column for column in columns if not any(column in row.values for row in catalogue.values())]:
        table = next(iter(new.values())).table
        raise UsageError(f"{table} has no column {', '.join(lost)}, which described the items in training")
    for row in new.values():
        if not is_described(row, columns):
            raise row.error(f"nothing describes this item: it has no {' or '.join(columns)}")
    state = predictor.model.state_dict()
    centre, scale = (state[f"embedders.{EVENTS}.content_{part}"].cpu().numpy() for part in ("centre", "scale"))
    described = torch.from_numpy((read_with(reader, columns, list(new.values())) - centre) / scale)
    place = f"embedders.{EVENTS}.content"
    state[place] = torch.cat([state[place], described.to(state[place])])
    if task.own_vectors == len(task.items):  # none has learned the bias of those that have a description only
        biases = state["head.bias.weight"][0]
        state["head.bias.weight"] = torch.cat([biases[:-1], biases[:-1].min()[None]])[None]
    return _with(predictor, [*new], state)


def _with(predictor: P, new: Sequence[str], state: dict[str, torch.Tensor]) -> P:
    """The predictor with more items, and the weights that have what describes them."""
    before: Any = predictor.processors[EVENTS]
    items = [*before.items, *new]
    processor = type(before)(before.config, before.columns, items, before.types, before.mean, before.deviation)
    old: Any = predictor.task
    task = Task(old.config, items, old.trained, old.own_vectors, old.reader_hash, old.content_columns)
    config = copy.deepcopy(predictor.model.config)
    config.modalities[EVENTS]["config"] = processor.config.model_dump(mode="json")
    config.task = task.head_config
    model = FusebertModel(config)
    model.load_state_dict(state)
    model.to(predictor.model.device).eval()
    kind = type(predictor)
    return kind(predictor.folder, model, {EVENTS: processor}, task, predictor.target, predictor.precision)


def _matched(folder: Path, columns: Sequence[str], rows: Sequence[Sample]) -> np.ndarray:
    predictor = read_predictor(folder, Predictor)
    side = next(name for name, its in side_columns(predictor).items() if {*its} == {*columns})
    vectors = []
    for _, vector in embed(predictor, iter(rows), side):
        if isinstance(vector, RowError):
            raise vector
        vectors.append(vector)
    return np.stack(vectors)


def _text(values: Iterable[Any]) -> str:
    """All that a row says, lists with commas, columns with full stops; the same whatever kind of table it is of."""
    lists = (value if isinstance(value, list) else [value] for value in values)
    said = (", ".join(without_fraction(one) for one in some if not is_missing(one)) for some in lists)
    return ". ".join(filter(None, said))
