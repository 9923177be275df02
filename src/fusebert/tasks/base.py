"""What every task's light half promises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from fusebert.types import Answer

Metrics = dict[str, float]


class Task(Protocol):
    """Raw targets in, arrays for the loss; logits in, answers and metrics out. Numpy only.

    `metric_names` are those that `evaluate` may give: known before anything is trained.
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
        """Learn from the raw targets (the labels, a scale), all of them readable.

        A task with more to take from how often answers occur has `adjust(targets)`, told the training rows' alone.
        """

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

    def calibrate(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Fit what makes probabilities honest, on validation rows."""

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """float[B, outputs] -> one answer a row."""

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether an answer is the raw target; None where answers are more or less right."""

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics`, the primary one first, and the tables that plots are drawn from; see each task."""

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load_from(cls, folder: Path) -> Self: ...
