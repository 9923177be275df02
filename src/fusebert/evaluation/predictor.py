"""Raw rows in, answers out: a model with all that reads its inputs and its outputs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from fusebert.data.collate import Collator
from fusebert.data.dataset import Dataset, Lost, Preparer, check
from fusebert.data.rows import rows_of
from fusebert.data.tables import Rows
from fusebert.errors import ModelError, RowError, UsageError, named
from fusebert.evaluation.inference import in_order, infer, outputs_per_row
from fusebert.evaluation.unfamiliar import Unfamiliar
from fusebert.modalities.base import Processor
from fusebert.model.modeling import FusebertModel
from fusebert.model.pretrained import save_trunk
from fusebert.storage import METRICS, finish, naming_failures, read_json, refuse_in_finished, write_json
from fusebert.tasks.base import Task
from fusebert.tasks.fit import preparers
from fusebert.types import TEXT, Answer, Example, Sample

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
    def sides(self) -> Sequence[Sequence[str]]:
        """The columns of each, where the trunk reads the sides of a row apart."""
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
        preparer = Preparer(self.processors, sides=self.sides, lost=lost)
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

    def _foreign_refused(self, row: Sample | RowError) -> Sample | RowError:
        """The row, unless it has none of the columns that the model reads: a recommender answers empty histories."""
        if isinstance(row, RowError) or any(column in row.values for column in self.columns):
            return row
        return row.error(f"it has none of the columns that the model reads ({', '.join(self.columns)})")

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
