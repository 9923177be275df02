"""A finished model folder, ready to answer: rows or tables in, answers or scores out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from fusebert.data.collate import Collator
from fusebert.data.dataset import (
    NO_SUCH_COLUMN,
    Dataset,
    Lost,
    Preparer,
    check,
    lost_errors,
    report_bad_rows,
    without_lost,
)
from fusebert.data.rows import rows_of
from fusebert.data.tables import Rows
from fusebert.errors import GIVEN_TABLE, DataError, ModelError, RowError, UsageError, named
from fusebert.evaluation.changed_examples import changed_examples
from fusebert.evaluation.changed_rows import Seen, hidden, shuffled
from fusebert.evaluation.inference import in_order, infer, infer_all, outputs_per_row
from fusebert.evaluation.unfamiliar import Unfamiliar
from fusebert.modalities.base import Processor
from fusebert.model.modeling import FusebertModel
from fusebert.model.pretrained import save_trunk
from fusebert.storage import METRICS, finish, naming_failures, read_json, refuse_in_finished, write_json
from fusebert.tasks.base import Task
from fusebert.tasks.fit import preparers
from fusebert.types import TEXT, Answer, Example, Sample

if TYPE_CHECKING:
    from fusebert.evaluation.index import Index

PREDICTOR = "predictor.json"


class Predictor:
    """A model with all that turns raw rows into its inputs and its outputs into answers.

    Args:
        folder: where it lies or will lie.
        target: the column it predicts; of sides that it matches their names, in words.
        precision: of inference, fp32 or bf16.
    """

    def __init__(
        self,
        folder: Path,
        model: FusebertModel,
        processors: Mapping[str, Processor],
        task: Task,
        target: str,
        precision: str,
    ) -> None:
        self.folder, self.model, self.processors, self.task = folder, model, processors, task
        self.target, self.precision = target, precision
        self.collator = Collator(processors, task.collate)

    @property
    def columns(self) -> dict[str, str]:
        """Each input column and its modality."""
        return {column: name for name, processor in self.processors.items() for column in processor.columns}

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json of its folder holds: `evaluations` with the `metrics` of validation and test, `ledger`,
        `warnings`, `training` and `speed`. Raises ModelError where there is none, as after `save`."""
        if not (path := self.folder / METRICS).is_file():
            raise ModelError(f"{self.folder} has no scores: it was saved, not trained; evaluate gives them")
        found: dict[str, Any] = read_json(path)
        return found

    @property
    def _sides(self) -> Sequence[Sequence[str]]:
        return getattr(self.task, "sides", ())

    def predict(self, rows: Any, top: int = 1, among: Iterable[str] | None = None) -> Any:
        """Answers to rows.

        Args:
            rows: one row as a dict; a list of dicts; a pandas DataFrame; or the path of a table. Of a table of events a
                recommender answers each user, in the order in which they come.
            top: how many of the likeliest labels each answer lists.
            among: items of which a recommender chooses, such as those in stock; None for all that it knows.

        Returns:
            One Answer for one dict, else a list in the order of the rows.

        Raises:
            UsageError: `top` is no number of labels; there is nothing to choose among, or the model is no recommender.
            RowError: a row cannot be read; or a recommender knows nothing in the history of the one dict.

        Warns of items in histories that a recommender does not know, of columns whose categories the training rows do
        not have, and of columns that a table, or a DataFrame, lacks.
        """
        if not isinstance(top, int) or top < 1:
            raise UsageError(f"top={top!r} will not do: a whole number from 1 on")
        answers = []
        strange: dict[str, None] = {}
        unfamiliar = Unfamiliar(self.processors)
        for row, answer in self.answers(unfamiliar.watch(self.asked(rows)), top, among=among):
            if isinstance(answer, RowError):
                raise answer
            unknown, of = self.unknown_items(row)
            if unknown and len(unknown) == of and isinstance(rows, Mapping):
                problem = f"none of the items is known to the model: {named(unknown)}; name some of its own"
                raise RowError(problem, row.table, row.row)
            strange |= dict.fromkeys(unknown)
            answers.append(answer)
        if strange:
            warnings.warn(f"items that the model does not know: {named([*strange])}", stacklevel=2)
        unfamiliar.warn(rows)
        return answers[0] if isinstance(rows, Mapping) else answers

    def unknown_items(self, row: Sample | RowError) -> tuple[list[str], int]:
        """The items of a row's history that a recommender does not know, and how many different ones there are; none
        for other tasks."""
        if isinstance(row, RowError) or not hasattr(self.task, "unknown_items"):
            return [], 0
        found: tuple[list[str], int] = self.task.unknown_items(row.values)
        return found

    def answers(
        self, rows: Any, top: int = 1, lost: Lost | None = None, among: Iterable[str] | None = None
    ) -> Iterator[tuple[Sample | RowError, Answer | RowError]]:
        """Each row with its answer, or with what is wrong with it, in order and in constant memory.

        Args:
            rows: as `predict` takes them; an iterator too.
            lost: where given, an input that cannot be read is left out of its row and noted here.
            among: as for `predict`.
        """
        preparer = Preparer(self.processors, sides=self._sides, lost=lost)
        task: Any = self.task
        if among is not None and not hasattr(task, "allowed"):
            raise UsageError(f"only a recommender chooses among items; the task of this model is {task.name}")
        allowed = None if among is None else task.allowed(among)

        def decoded(examples: list[Example]) -> Sequence[Answer]:
            logits = infer(self.model, examples, self.collator, self.precision)
            return self.task.decode(logits if allowed is None else task.rule_out(logits, allowed), top)

        size = outputs_per_row(self.model)
        return in_order(self.asked(rows), lambda row: preparer(self._foreign_refused(row)), decoded, size)

    def asked(self, rows: Any) -> Rows:
        """The rows that `answers` answers: those it is given, or of a table of events one for each user."""
        histories = getattr(self.task, "histories", None)
        return rows_of(rows) if histories is None else histories(rows_of(rows))

    def dataset(self, rows: Any) -> Dataset:
        """Rows to learn from, prepared: item i is an Example, and `collator` makes a batch of some. So transformers'
        Trainer, or a loop of your own, trains `model`.

        Raises:
            RowError: a row cannot be read.
        """
        _, learning = preparers(self.processors, self.task, self.target)
        samples, lengths, bad = check(rows_of(rows), learning)
        if bad:
            raise bad[0]
        return Dataset(samples, lengths, learning, varied=True)

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

    def with_items(self, catalogue: Any) -> Predictor:
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

    def answering_from(self, threshold: float) -> Predictor:
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

    def _foreign_refused(self, row: Sample | RowError) -> Sample | RowError:
        """The row, unless it has none of the columns that the model reads: a recommender answers empty histories."""
        if isinstance(row, RowError) or any(column in row.values for column in self.columns):
            return row
        return row.error(f"it has none of the columns that the model reads ({', '.join(self.columns)})")

    def evaluate(
        self,
        table: Any,
        *,
        without: str | Sequence[str] = (),
        shuffle: str | Sequence[str] = (),
        known: Any = (),
        bad_rows: str = "refuse",
        listed_in: Path | None = None,
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
        logits, targets, noted = self.outputs(table, without, shuffle, known, bad_rows, listed_in)
        return {"rows": len(targets), **self.task.evaluate(logits, targets)} | noted

    def outputs(
        self,
        table: Any,
        without: Any = (),
        shuffle: Any = (),
        known: Any = (),
        bad_rows: str = "refuse",
        listed_in: Path | None = None,
    ) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """What `evaluate` scores: logits and targets as the task's `evaluate` takes them, and what else it tells."""
        rows = rows_of(table)
        without, shuffle, known = map(_several, (without, shuffle, known))
        if bad_rows not in ("refuse", "skip", "blank"):
            raise UsageError(f"bad_rows={bad_rows!r} is none of 'refuse', 'skip' and 'blank'")
        self._check_modalities(without, shuffle)
        if hasattr(self.task, "questions"):
            rows = self.task.questions(rows, [rows_of(one) for one in known])
        elif known:
            raise UsageError(f"only a recommender reads what is known; the task of this model is {self.task.name}")
        unfamiliar = Unfamiliar(self.processors)
        rows = unfamiliar.watch(rows)
        seen, lost = Seen(stop_at_bad=bad_rows == "refuse"), Lost() if bad_rows == "blank" else None
        if without or shuffle:
            rows = self._usable(rows, seen, lost)
        rows, true = tee(rows)
        if shuffle:
            rows = shuffled(list(rows), self._dealt_out(shuffle))
        if without:
            rows = hidden(rows, [column for column, name in self.columns.items() if name in without])
        bare = bool(without or shuffle)  # of rows that were looked at above
        preparer = Preparer(
            self.processors, self.task, self.target, self._sides, bare=bare, lost=None if bare else lost
        )
        examples = seen.examples(zip(rows, true, strict=True), preparer)
        first, bad = next(examples, None), seen.bad
        if first is None:
            where = table if isinstance(table, str | Path) else GIVEN_TABLE
            if bad and all((error.column, error.problem) == (self.target, NO_SUCH_COLUMN) for error in bad):
                raise UsageError(
                    f"{where} has no column {self.target!r} to compare the answers with; predict needs none"
                )
            report_bad_rows(bad, seen.rows, bad_rows, listed_in, lost)
            raise DataError(f"{where} has no rows")
        logits, targets = infer_all(self.model, chain([first], examples), self.collator, self.precision)
        report_bad_rows(bad, seen.rows, bad_rows, listed_in, lost)
        counts = {"bad_rows": len(bad), "lost_values": len(lost_errors(lost))}
        return logits, targets, {name: count for name, count in counts.items() if count} | unfamiliar.columns

    def changed_outputs(
        self, rows: Dataset, without: Sequence[str] = (), shuffle: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray]:
        """The logits and targets that `outputs` gives of such rows, which were checked; what is kept of them is not
        prepared again."""
        preparer = Preparer(self.processors, self.task, self.target, self._sides, bare=True)
        examples = changed_examples(rows, preparer, without, self._dealt_out(shuffle))
        return infer_all(self.model, examples, self.collator, self.precision)

    def _check_modalities(self, without: Sequence[str], shuffle: Sequence[str]) -> None:
        """Raises UsageError where they cannot be taken away and dealt out."""
        for name in [*without, *shuffle]:
            if name not in self.processors:
                raise UsageError(f"{name!r} is not a modality of this model; it has {', '.join(self.processors)}")
        if both := set(without) & set(shuffle):
            raise UsageError(f"{', '.join(sorted(both))} cannot be taken away and dealt out at once")
        if set(without) == set(self.processors):
            raise UsageError(f"without {', '.join(without)} the model reads nothing")

    def _usable(self, rows: Rows, seen: Seen, lost: Lost | None) -> Rows:
        """The rows that are scored as they are: the same ones count when something is taken away or dealt out."""
        preparer = Preparer(self.processors, self.task, self.target, self._sides, lost=lost)
        for row in rows:
            made = preparer(row)
            if isinstance(made, RowError):
                seen.add_bad(made)
            elif isinstance(row, Sample):
                yield without_lost(row, lost)

    def _dealt_out(self, modalities: Sequence[str]) -> list[str]:
        """Their columns; of a model with two sides those of one, as both together would still belong to each other."""
        columns = [column for column, name in self.columns.items() if name in modalities]
        of_sides = ([column for column in columns if column in side] for side in self._sides)
        return next(filter(None, of_sides), columns)

    def save_trunk(self, folder: str | Path) -> None:
        """Write the trunk alone, with its vocabulary, as a new folder that `transformers.BertModel` loads.

        Raises:
            UsageError: the folder holds something already.
        """
        text: Any = self.processors.get(TEXT)
        save_trunk(self.model.trunk, _new_folder(folder, "the trunk"), text.save_tokenizer if text else None)

    def save(self, folder: str | Path) -> None:
        """Write a new folder that `load` reads, as after training by other tools; without scores and plots.

        Raises:
            UsageError: the folder holds something already.
        """
        whole = copy.copy(self)
        whole.folder = _new_folder(folder, "the model")
        whole.write()
        finish(whole.folder)

    def write(self) -> None:
        """Write everything `load` needs into `self.folder`, unsealed."""
        disable_progress_bar()
        with naming_failures(self.folder):
            self.model.save_pretrained(self.folder)
        for processor in self.processors.values():
            processor.save(self.folder)
        self.task.save(self.folder)
        names = {"modalities": list(self.processors), "task": self.task.name}
        write_json(self.folder / PREDICTOR, names | {"target": self.target, "precision": self.precision})


def _new_folder(folder: str | Path, what: str) -> Path:
    """A folder to write to. Raises UsageError where it holds something already, or lies in a finished one."""
    place = Path(folder)
    refuse_in_finished(place, f"another folder for {what}")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        why = "is not empty" if place.is_dir() else "is a file"
        raise UsageError(f"{place} {why}; choose another folder for {what}")
    return place


def _several(given: Any) -> list[Any]:
    """A list, also where one thing stands for it."""
    if not hasattr(given, "__iter__") and not isinstance(given, Path):
        raise UsageError(f"a name, a table, or a list of them expected, found {type(given).__name__}")
    is_table = hasattr(given, "to_dict") or hasattr(given, "to_pylist")  # of pandas, polars; of pyarrow
    alone = isinstance(given, str | Path | Mapping) or is_table
    return [given] if alone else list(given)
