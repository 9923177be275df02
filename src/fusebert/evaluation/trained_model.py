"""A finished model folder: rows or tables in; answers, scores, vectors and indexes out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusebert.data.rows import rows_of
from fusebert.errors import RowError, UsageError
from fusebert.evaluation.loading import read_predictor
from fusebert.evaluation.predictor import Predictor
from fusebert.evaluation.scoring import outputs

if TYPE_CHECKING:
    from fusebert.evaluation.index import Index


def load(folder: str | Path, device: str | None = None) -> TrainedModel:
    """The model in a folder, verified byte for byte.

    Args:
        device: cpu or cuda; None takes cuda where torch finds it.

    Raises:
        ModelError: the folder is missing, unfinished, or changed since it was written.
        UsageError: there is no such device.
    """
    return read_predictor(folder, TrainedModel, device)


class TrainedModel(Predictor):
    """What `train` and `load` give: it answers, and is scored, searched with, and taught new items."""

    def evaluate(
        self,
        table: Any,
        *,
        without: str | Sequence[str] = (),
        shuffle: str | Sequence[str] = (),
        known: Any = (),
        bad_rows: str = "refuse",
        listed_in: str | Path | None = None,
    ) -> dict[str, Any]:
        """Scores on rows with targets.

        Args:
            table: path of a table, or rows as `predict` takes them.
            without: modalities taken away from every row; one left with nothing to read is scored all the same.
            shuffle: modalities whose values are dealt out to other rows; of two sides that belong together, those of
                the first that has any.
            known: tables of events that came before, for a recommender; they are not scored. One table, or one
                modality, may stand by itself instead of in a list.
            bad_rows: refuse, skip, or blank, which uses a row without the input that cannot be read.
            listed_in: file that lists unusable rows; None for no list.

        Returns:
            `rows`, `metrics`, and the task's tables; `bad_rows` if some were skipped; `lost_values` if
            some were left out of their rows; `absent_columns` if no row had
            some that the model reads; `unknown_columns` if nearly all categories of some are unknown to it.
        """
        place = None if listed_in is None else Path(listed_in)
        logits, targets, noted = outputs(self, table, without, shuffle, known, bad_rows, place)
        return {"rows": len(targets), **self.task.evaluate(logits, targets)} | noted

    def embed(self, rows: Any, side: str) -> np.ndarray:
        """Vectors float32[B, vector_size], each of length 1, of one side of a model for `task.name=matching`.

        Args:
            rows: as `predict` takes them; of one dict the vector alone, float32[vector_size].
            side: left or right; the columns of the other one are not read.

        Raises:
            UsageError: the model makes no vectors, or has no such side.
            RowError: a row cannot be read.

        Warns of columns as `predict` does.
        """
        from fusebert.evaluation.vectors import embed, unfamiliar_to

        vectors, unfamiliar = [], unfamiliar_to(self, side)
        for _, vector in embed(self, unfamiliar.watch(rows_of(rows)), side):
            if isinstance(vector, RowError):
                raise vector
            vectors.append(vector)
        unfamiliar.warn(rows)
        if isinstance(rows, Mapping):
            return vectors[0]
        size = int(self.model.config.task["vector_size"])
        return np.stack(vectors) if vectors else np.zeros((0, size), dtype=np.float32)

    def index(self, folder: str | Path) -> Index:
        """An index that was made with this model, to be searched and changed.

        Raises:
            ModelError: it is damaged, or another model made it.
        """
        from fusebert.evaluation.index import Index

        return Index(self, Path(folder))

    def write_index(
        self,
        folder: str | Path,
        rows: Any,
        side: str,
        key: str | None = None,
        on_bad: Callable[[RowError], None] | None = None,
    ) -> Index:
        """A new folder with rows and the vectors of one of their sides, in which those are found that are most similar.

        Args:
            rows: as `predict` takes them.
            side: left or right; the columns of the other one are not read.
            key: the column that names a row, for an index that can change.
            on_bad: is told what is wrong with a row, which is then left out; None to raise it.

        Raises:
            UsageError: the model makes no vectors, LanceDB is not installed, `folder` exists, or there is no row.
            RowError: a row cannot be read.

        Warns of columns as `predict` does.
        """
        from fusebert.evaluation.incoming import refuse
        from fusebert.evaluation.index import write_index
        from fusebert.evaluation.vectors import unfamiliar_to

        unfamiliar = unfamiliar_to(self, side)
        write_index(self, Path(folder), unfamiliar.watch(rows_of(rows)), side, key, on_bad or refuse)
        unfamiliar.warn(rows)
        return self.index(folder)

    def with_items(self, catalogue: Any) -> TrainedModel:
        """A recommender that can also recommend items that came after its training, by their description.

        Args:
            catalogue: path of a table as `task.catalogue` is one, or rows as `predict` takes them; items that the model
                knows stay as they are.

        Raises:
            UsageError: the model is no recommender, or was trained without task.content.
            ModelError: what described its items is another model now.
            DataError: a row names no item, or one that another names, too.
        """
        from fusebert.evaluation.catalogue import with_items

        return with_items(self, rows_of(catalogue))

    def answering_from(self, threshold: float) -> TrainedModel:
        """A classifier that answers from another probability on: with the second of two labels, or with each label of
        lists.

        Raises:
            UsageError: the threshold is not between 0 and 1, or the model has no use for one.
        """
        task: Any = self.task
        if not hasattr(task, "answering_from"):
            raise UsageError(f"a threshold is for labels; the task of this model is {task.name}")
        changed = copy.copy(self)
        changed.task = task.answering_from(threshold)
        return changed
