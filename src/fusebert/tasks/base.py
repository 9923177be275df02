"""What the two halves of every task promise: `task.py`, light, and `head.py`, heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from fusebert.types import Answer, Encoded

if TYPE_CHECKING:
    from torch import Tensor

Metrics = dict[str, float]


class Task(Protocol):
    """Raw targets in, arrays for the loss; logits in, answers and metrics out.

    Light: its module imports neither torch nor transformers. Beside it stands `Config`, its settings, a
    `fusebert.section.Section`, of the same kinds of fields as a modality's (see `modalities.base`).

    A task may also have
        needs_target = False: it asks for no target column, and `fit` gets no targets;
        adjust(targets: Sequence[Any]) -> None: called after `fit`, which saw the whole table, with the raw targets of
            the rows that are learnt from: for what is taken from how often answers occur;
        score(logits, targets) -> float: the primary metric alone, where `evaluate` is much more work; NaN for none;
        score_rows(logits, targets) -> float[B]: the primary metric of each row among all, where it is their mean; NaN
            of a row that is no part of it;
        doubts(targets) -> list[str]: in words, what about the training targets is probably a slip;
        unshared(learnt, scored) -> list[str]: in words, what only the training or only the validation targets have;
        calibrate(logits, targets) -> None: called once after training, with validation rows as `evaluate` gets them, to
            fit what makes probabilities honest, and what `decide` chooses; `save` comes after it;
        decide(logits, targets) -> None: called with validation rows before these are scored in training, to choose what
            answers are made of probabilities, so that each epoch is judged by the answers that it would give;
        answering_from(threshold: float) -> Self: the same with a threshold for answers that the user has set. Raises
            UsageError;
        initializer_range: float, the deviation of fresh weights, where the trunk's would not do;
        limits: Sequence[str], sentences for the model card on what its answers do not say.

    Of two sides that are read apart (see `matching`), where `target` gets the values of each side instead of a cell
        sides: Sequence[Sequence[str]], the columns of each; `vectors` of a model asks for two;
        hard_negatives: Mapping[str, str], column of a side -> column that stands in for it in one more side of rows to
            learn from; {} for none, and always there beside `sides`.

    Of tables of events (see `recommendation`)
        questions(rows: Rows, known: Sequence[Rows]) -> Rows: the rows that `evaluate` of a model scores, from those it
            is given and those that came before;
        histories(rows: Rows) -> Rows: the rows that `predict` answers, of those it is given;
        allowed(items: Iterable[str]) -> bool[outputs]: those of these names; rule_out(logits, allowed) -> logits with
            which `decode` answers with no others;
        unknown_items(row: Mapping[str, Any]) -> tuple[list[str], int]: items of a row that the model does not know, and
            how many different ones there are;
        baselines(histories: Sequence[Sample], asked: Mapping[str, Sequence[Sample]], events: Processor) -> dict: by
            split, then by name, the metrics of simple ways to answer; `events` is the processor of that modality.

    Args:
        name: that of its entry point or folder.
        primary_metric: chooses the weights that are kept, and stands for all in reports.
        metric_names: those that `evaluate` may give: known before anything is trained.
    """

    name: str
    primary_metric: str
    higher_is_better: bool
    metric_names: Sequence[str]

    @staticmethod
    def read(raw: Any) -> Any:
        """A raw target in its plain form, before anything is fitted. Raises InputError in words, without the place."""

    @classmethod
    def fit(cls, config: Any, targets: Sequence[Any]) -> Self:
        """Learn from the raw targets (the labels, a scale), all of them readable.

        Raises:
            DataError: nothing can be learnt from them.
        """

    @property
    def head_config(self) -> dict[str, Any]:
        """What the head needs to be built: JSON values. `name` is the task's; `outputs`, where there are many logits a
        row, how many."""

    def target(self, raw: Any) -> np.ndarray:
        """A raw target as the loss reads it, of the same shape in every row. Raises InputError in words."""

    @staticmethod
    def collate(targets: Sequence[Any], starts: np.ndarray) -> Any:
        """Targets of a batch -> an array, or arrays by name, which the head's loss gets as tensors.

        Args:
            targets: of `target`, of B rows.
            starts: int64[B], where each row starts among the packed tokens.
        """

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """float[B, outputs] -> one answer a row, its value one that JSON has.

        Args:
            top: how many of the likeliest answers each lists, in a task that tells some likely ones; 1 for none.
        """

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether an answer, a value of `decode`, is the raw target; None where both are numbers, and the one is nearer
        to the other or less so."""

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics`, float by name, the primary one first, and tables that plots are drawn from; all JSON values.

        A metric that these rows do not have, such as a correlation with a constant, is left out. `loss`, where there is
        one, is drawn beside that of training.

        Args:
            logits: float32[B, outputs]; or what the head's `statistics` gives, and `targets` are then zeros.
            targets: those of `target`, stacked.

        Returns:
            Beside `metrics`: `queries`, how many rows they are of, where these are not all; `decision`, where answers
            are not simply the likeliest ones: {"rule", in words, "chosen_for", the metric, None where the user has set
            it, "otherwise", metrics of the likeliest answers}. Plots are drawn of
            `confusion`, {"labels": [...], "counts": int[C, C], of each right label the answers}; of `scatter`, pairs of
            target and answer; and of `calibration`, a list of {"confidence", "accuracy", "rows"}.
        """

    def save(self, folder: Path) -> None:
        """Write all that `load_from` needs into `task.json` of a model's folder: JSON only, by `storage.write_json`."""

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        """The task that `save` wrote there: it answers and scores as that one did."""


class Head(Protocol):
    """What the trunk makes of a batch -> logits and loss: an `nn.Module`, made as `Head(task.head_config, trunk)`.

    `trunk` is the trunk's `TrunkConfig`; D is `trunk.hidden_size`. Weights start as an embedder's do. Buffers are
    persistent: a loaded model has no others. `encoded.pooled()` is one vector a row, whatever the fusion.

    A head may also have
        reads(labels) -> ALL, FIRST, or int64[M] tokens, each once and no row's first, which is read anyway: those whose
            last states it looks at; the last layer computes no others. `labels` are None in prediction. Without it,
            ALL;
        causal = True: no token of a row sees a later one;
        reads_pooler = False: it never calls `encoded.pooled()`, or only of the mean of ALL tokens;
        tie(model) -> None: called once the model is whole, to borrow weights of others (see `model.borrowed`);
        counts(labels) -> dict[str, int]: over how many things each part of its loss is a mean, where that is not the
            rows; labels are on the host;
        statistics(encoded, labels) -> float[B, K]: what the task's `evaluate` gets instead of logits too many to keep;
        compile_loss(wanted: bool) -> None: called with True before training that is compiled, and with False after it.
    """

    def __call__(self, encoded: Encoded) -> Tensor:
        """Logits float[B, outputs]."""

    def loss(self, encoded: Encoded, labels: Any) -> Mapping[str, Tensor]:
        """`loss`, a mean over the rows; where `counts` names parts, these too, which sum up to it.

        Args:
            labels: what the task's `collate` gave, as tensors on the model's device.
        """
