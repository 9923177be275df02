"""The items that can be recommended, what describes each, and items that come after training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fusebert.data.tables import Rows
from fusebert.errors import InputError, ModelError, RowError, UsageError
from fusebert.evaluation.encode import Encoder
from fusebert.evaluation.loading import load
from fusebert.evaluation.predictor import PREDICTOR, Predictor
from fusebert.evaluation.vectors import embed, side_columns
from fusebert.modalities.values import as_category, is_missing
from fusebert.model.modeling import FusebertModel
from fusebert.storage import MANIFEST, file_hash
from fusebert.tasks.recommendation.task import Task
from fusebert.types import Sample, is_given

EVENTS = "events"


@dataclass(frozen=True, slots=True)
class Description:
    """What describes items: vectors float32[items, C], made of those of a reader, less their `centre` float32[C], by
    their `scale`; zeros for an item that nothing describes."""

    vectors: np.ndarray
    centre: np.ndarray
    scale: float


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


def is_described(row: Sample, item: str) -> bool:
    """Whether a row of a catalogue says more than the name of its item."""
    return any(name != item and is_given(value) and not is_missing(value) for name, value in row.values.items())


def describe(reader: str, item: str, rows: Sequence[Sample | None]) -> Description:
    """What a model makes of each row of the catalogue, centred, of length 1 on average; None is an item without a row.

    Args:
        reader: as `read_with` takes it.
    """
    places = [place for place, row in enumerate(rows) if row is not None]
    vectors = read_with(reader, item, [row for row in rows if row is not None])
    centre = vectors.mean(axis=0)
    vectors = vectors - centre
    scale = max(float(np.sqrt((vectors**2).sum(axis=1).mean())), 1e-6)
    content = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    content[places] = vectors / scale
    return Description(content, centre, scale)


def read_with(reader: str, item: str, rows: Sequence[Sample]) -> np.ndarray:
    """float32[rows, C]: what a model makes of each row.

    Args:
        reader: a BERT, which reads all columns but `item` as one text; or the folder of a matching model, which reads
            the columns of one of its sides, such as a picture.
    """
    if (Path(reader) / PREDICTOR).is_file():
        return _matched(Path(reader), rows)
    texts = [_text({name: value for name, value in row.values.items() if name != item}) for row in rows]
    return Encoder(reader).encode(texts)


def reader_hash(reader: str) -> str | None:
    """Tells whether a folder holds the same model as before; None for what is known by its name alone."""
    manifest = Path(reader) / MANIFEST
    return file_hash(manifest) if manifest.is_file() else None


def with_items(predictor: Predictor, rows: Rows) -> Predictor:
    """A recommender that also knows the new items of a catalogue, by their description.

    Raises:
        UsageError: it is no recommender, or nothing describes its items.
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
    new = {name: row for name, row in read_catalogue(rows, task.config.item).items() if name not in known}
    if not new:
        return predictor
    for row in new.values():
        if not is_described(row, task.config.item):
            raise row.error("nothing describes this item: its other columns are empty")
    state = predictor.model.state_dict()
    centre, scale = (state[f"embedders.{EVENTS}.content_{part}"].cpu().numpy() for part in ("centre", "scale"))
    described = torch.from_numpy((read_with(reader, task.config.item, list(new.values())) - centre) / scale)
    place = f"embedders.{EVENTS}.content"
    state[place] = torch.cat([state[place], described.to(state[place])])
    if task.own_vectors == len(task.items):  # none has learned the bias of those that have a description only
        biases = state["head.bias.weight"][0]
        state["head.bias.weight"] = torch.cat([biases[:-1], biases[:-1].min()[None]])[None]
    return _with(predictor, [*new], state)


def _with(predictor: Predictor, new: Sequence[str], state: dict[str, torch.Tensor]) -> Predictor:
    """The predictor with more items, and the weights that have what describes them."""
    before: Any = predictor.processors[EVENTS]
    items = [*before.items, *new]
    processor = type(before)(before.config, before.columns, items, before.types, before.mean, before.deviation)
    old: Any = predictor.task
    task = Task(old.config, items, old.trained, old.own_vectors, old.reader_hash)
    config = copy.deepcopy(predictor.model.config)
    config.modalities[EVENTS]["config"] = processor.config.model_dump(mode="json")
    config.task = task.head_config
    model = FusebertModel(config)
    model.load_state_dict(state)
    model.to(predictor.model.device).eval()
    return Predictor(predictor.folder, model, {EVENTS: processor}, task, predictor.target, predictor.precision)


def _matched(folder: Path, rows: Sequence[Sample]) -> np.ndarray:
    predictor = load(folder)
    sides = side_columns(predictor)
    there = {column for row in rows for column in row.values}
    side = next((name for name, columns in sides.items() if there.issuperset(columns)), None)
    if side is None:
        needed = " or ".join(", ".join(columns) for columns in sides.values())
        raise UsageError(f"task.content={folder} reads {needed}, which {rows[0].table} does not have")
    vectors = []
    for _, vector in embed(predictor, iter(rows), side):
        if isinstance(vector, RowError):
            raise vector
        vectors.append(vector)
    return np.stack(vectors)


def _text(values: dict[str, Any]) -> str:
    """All that a row says, lists with commas, columns with full stops."""
    given = [value for value in values.values() if not is_missing(value)]
    said = (", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in given)
    return ". ".join(text for text in said if text)
