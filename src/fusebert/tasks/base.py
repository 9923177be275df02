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
    """Raw targets in, arrays for the loss; logits in, answers and metrics out. Numpy only.

    `metric_names` are those that `evaluate` may give: known before anything is trained.

    A task may also have
        needs_target = False: it asks for no target column;
        score(logits, targets): the primary metric alone, where `evaluate` is much more work; NaN where there is none;
        calibrate(logits, targets): fit what makes probabilities honest, on validation rows;
        limits: sentences on what its answers do not say;
        adjust(targets): what is taken from how often answers occur, told those of the training rows alone;
        sides, hard_negatives: columns that are read apart (see `matching`);
        questions, unknown_items, baselines: of tables of events (see `recommendation`).
    """

    name: str
    primary_metric: str
    higher_is_better: bool
    metric_names: Sequence[str]

    @staticmethod
    def read(raw: Any) -> Any:
        """A raw target in its plain form. Raises InputError in words."""

    @classmethod
    def fit(cls, config: Any, targets: Sequence[Any]) -> Self:
        """Learn from the raw targets (the labels, a scale), all of them readable."""

    @property
    def head_config(self) -> dict[str, Any]:
        """What the head needs to be built: JSON values, with the task's name."""

    def target(self, raw: Any) -> np.ndarray:
        """A raw target as the loss reads it. Raises InputError in words."""

    @staticmethod
    def collate(targets: Sequence[Any], starts: np.ndarray) -> Any:
        """Targets of a batch -> an array, or arrays by name, for the head's loss.

        Args:
            starts: int64[B], where each row starts among the packed tokens.
        """

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """float[B, outputs] -> one answer a row."""

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether an answer is the raw target; None where answers are more or less right."""

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics`, the primary one first, and the tables that plots are drawn from; see each task."""

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load_from(cls, folder: Path) -> Self: ...


class Head(Protocol):
    """What the trunk makes of a batch -> logits and loss: an `nn.Module`, `Head(task.head_config, trunk_config)`.

    A head may also have
        reads(labels): ALL, FIRST, or int64[M] tokens: those whose last states it looks at; the last layer computes no
            others, which halves its work;
        reads_pooler = False: it never calls `encoded.pooled()`;
        tie(model): called once the model is whole, to borrow weights of others;
        counts(labels): over how many things each part of its loss is a mean, where that is not the rows;
        statistics(encoded, labels): float[B, K] that the task's `evaluate` gets instead of logits too many to keep;
        compile_loss(wanted): asked before training on a GPU.
    """

    def __call__(self, encoded: Encoded) -> Tensor:
        """Logits float[B, outputs]."""

    def loss(self, encoded: Encoded, labels: Any) -> Mapping[str, Tensor]:
        """`loss`, a mean over the batch, and its parts by name where `counts` names them."""
