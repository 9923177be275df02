"""What comes next? All items of a catalogue, ranked by a user's history (SASRec, Kang & McAuley 2018; BERT4Rec, Sun et
al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from fusebert.config import without_places
from fusebert.data.tables import Rows
from fusebert.errors import InputError, RowError, UsageError
from fusebert.modalities.events.history import read_history
from fusebert.modalities.values import as_category
from fusebert.storage import read_json, write_json
from fusebert.tasks.recommendation.config import HISTORY, Config, Target
from fusebert.tasks.recommendation.ranking import NAMES, ranking_metrics
from fusebert.types import Answer, Sample

RULED_OUT = float(np.finfo(np.float32).min)
"""The score of an item that cannot come next."""


class Task:
    """Recommendation. An item's code is its place in `items` + 1, as for the events.

    Args:
        items: of the catalogue, those of the training events first, the most frequent before the others.
        trained: how many of them the training events have.
        own_vectors: how many of them have more than a description; None for all.
        reader_hash: of the model that described them, where it can be told from others of its name.
        content_columns: the columns of the catalogue that it read, in that order.
    """

    name = "recommendation"
    needs_target = False
    primary_metric = "ndcg_at_10"
    higher_is_better = True
    metric_names: Sequence[str] = NAMES
    initializer_range = 0.02
    """BERT's own. Item vectors are the output weights too, and larger ones would drown what the bias knows at first."""

    def __init__(
        self,
        config: Config,
        items: Sequence[str] = (),
        trained: int = 0,
        own_vectors: int | None = None,
        reader_hash: str | None = None,
        content_columns: Sequence[str] = (),
    ) -> None:
        self.config, self.items, self.trained = config, tuple(items), trained
        self.reader_hash, self.content_columns = reader_hash, tuple(content_columns)
        self.own_vectors = len(self.items) if own_vectors is None else own_vectors
        self._codes = {name: 1 + place for place, name in enumerate(self.items)}

    @staticmethod
    def read(raw: Any) -> Any:
        """The name of an item."""
        return as_category(raw)

    @classmethod
    def fit(cls, config: Config, targets: Sequence[Any]) -> Self:
        return cls(config)

    @property
    def head_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "outputs": len(self.items),
            "trained": self.trained,
            "own_vectors": self.own_vectors,
            "repeats": self.config.repeats,
            "causal": self.config.objective == "next",
        }

    def target(self, raw: Any) -> np.ndarray:
        """The item's code as int64[]; 0 where the catalogue does not have it, which no answer can be right for."""
        return np.array(self._codes.get(self.read(raw), 0))

    @staticmethod
    def collate(targets: Sequence[Any], starts: np.ndarray) -> dict[str, np.ndarray]:
        """`items` int64[M]; of training rows also `places` int64[M] among all packed tokens."""
        if not isinstance(targets[0], Target):
            return {"items": np.stack(targets)}
        return {
            "places": np.concatenate([one.places + start for one, start in zip(targets, starts, strict=True)]),
            "items": np.concatenate([one.items for one in targets]),
        }

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """The likeliest items, from float[B, items]; of equal ones, the first in the catalogue comes first.

        Fewer than `top` where the others are ruled out; None where all are.
        """
        answers = []
        for row in logits:  # one at a time: all shares of all rows would take more memory than the logits
            exponents = np.exp(row - row.max())
            best = _best(row, top)
            best = best[row[best] > RULED_OUT]
            shares = (exponents[best] / exponents.sum()).tolist()
            found = [(self.items[item], share) for item, share in zip(best.tolist(), shares, strict=True)]
            answers.append(Answer(*found[0], found if top > 1 else []) if found else Answer(None))
        return answers

    def rule_out(self, logits: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """float[B, items] in which only some items can be answers, bool[items]."""
        return np.where(allowed, logits, np.float32(RULED_OUT))

    def allowed(self, items: Iterable[Any]) -> np.ndarray:
        """bool[items], those that have one of these names. Raises UsageError where none has, InputError for no name."""
        found = np.zeros(len(self.items), dtype=bool)
        found[[self._codes[name] - 1 for name in map(as_category, items) if name in self._codes]] = True
        if not found.any():
            raise UsageError(f"the model knows none of the items to choose among; it knows {self.items[0]!r}, ...")
        return found

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether the first item was the next."""
        return bool(as_category(raw) == answer)

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """How far up in the whole catalogue the next items were.

        Args:
            logits: float[B, 3], the head's `statistics`: rank from 1, whether the training events have the item, and
                whether there is a history.

        Returns:
            `metrics`, and `without_history`, how many of the questions have none.
        """
        metrics = ranking_metrics(logits[:, 0], logits[:, 1] > 0)
        return {"metrics": metrics, "without_history": int((logits[:, 2] == 0).sum())}

    def questions(self, rows: Rows, known: Sequence[Rows] = ()) -> Rows:
        """Rows with a history each as they are; of a table of events, a row for each event, with what its user did
        before it in this table and in the `known` ones.

        Raises:
            UsageError: something is known beside rows that have a history each; or what is asked about is known.
        """
        from fusebert.tasks.recommendation.histories import asked_again, questions, read_events

        rows, first = self._looked_at(rows)
        if first is not None and self._is_event(first):
            before = [read_events(table, self.config) for table in known]
            done, bad = read_events(rows, self.config)
            past = [one for events, _ in before for one in events]
            if twice := asked_again(past, done):
                raise UsageError(twice)
            unreadable = chain(*(wrong for _, wrong in before), bad)
            rows = chain(unreadable, questions(past, done))
        elif known:
            table = "the table" if first is None else first.table
            raise UsageError(
                f"{table} is not a table of events with a column {self.config.item!r}, so nothing else can be known "
                "before them; leave out what is known"
            )
        yield from rows

    def histories(self, rows: Rows) -> Rows:
        """Rows with a history each as they are; of a table of events, a row for each user, whose name stands under
        `task.user`, with all that they did."""
        from fusebert.tasks.recommendation.histories import read_events, whole_histories

        rows, first = self._looked_at(rows)
        if first is not None and self._is_event(first):
            done, bad = read_events(rows, self.config)
            rows = chain(bad, whole_histories(done, self.config.user))
        yield from rows

    @staticmethod
    def _looked_at(rows: Rows) -> tuple[Rows, Sample | None]:
        """The rows, and the first of them that can be read."""
        leading: list[Sample | RowError] = []
        for row in rows:
            leading.append(row)
            if isinstance(row, Sample):
                return chain(leading, rows), row
        return iter(leading), None

    def _is_event(self, row: Sample) -> bool:
        return HISTORY not in row.values and self.config.item in row.values

    def unknown_items(self, row: Mapping[str, Any]) -> tuple[list[str], int]:
        """The items of a row's history that the model does not know, and how many different ones there are."""
        try:
            items = dict.fromkeys(event.item for event in read_history(row.get(HISTORY)))
        except InputError:  # reported where the row is prepared
            return [], 0
        return [item for item in items if item not in self._codes], len(items)

    def baselines(
        self, histories: Sequence[Sample], asked: Mapping[str, Sequence[Sample]], events: Any
    ) -> dict[str, dict[str, Any]]:
        """Metrics of simple recommenders on the same questions, by split; see `baselines.baselines`."""
        from fusebert.tasks.recommendation.baselines import baselines

        return baselines(self, histories, asked, events)

    def save(self, folder: Path) -> None:
        config = self.config.model_dump(mode="json")
        config |= without_places({"catalogue": config["catalogue"]})
        saved = {"config": config, "trained": self.trained}
        saved |= {"own_vectors": self.own_vectors, "reader_hash": self.reader_hash}
        saved |= {"content_columns": self.content_columns, "items": self.items}
        write_json(folder / "task.json", saved)

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "task.json")
        return cls(Config(**saved.pop("config")), **saved)


def _best(scores: np.ndarray, top: int) -> np.ndarray:
    """Places int64[top] of the highest of float[items], as a stable sort of all would order them."""
    top = min(top, len(scores))
    candidates = np.flatnonzero(scores >= np.partition(scores, -top)[-top])
    return np.asarray(candidates[np.argsort(-scores[candidates], kind="stable")[:top]])
