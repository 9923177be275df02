"""A number for each row: targets on a common scale, answers on the user's, MAE and R²."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from fusebert.errors import DataError, InputError
from fusebert.modalities.values import as_number
from fusebert.section import Section
from fusebert.storage import read_json, write_json
from fusebert.types import Answer

SCATTER_POINTS = 2000
FAR, TAILS = 10, (0.25, 0.05, 0.01)
"""Interquartile ranges beyond the quartiles, where a target is more likely a slip than a number like the others; wider
quantiles, where those are one number."""


class Config(Section):
    """How numbers are learnt."""

    pooling: Literal["first", "mean"] = Field(
        "first", description="what stands for a row: BERT's pooler over [CLS], or the mean of all its tokens"
    )


class Task:
    """Regression; the model learns (target - mean) / std of the training rows."""

    name = "regression"
    primary_metric = "mae"
    higher_is_better = False
    metric_names: Sequence[str] = ("mae", "rmse", "loss", "r2", "pearson")

    def __init__(self, config: Config, mean: float, std: float) -> None:
        self.config, self.mean, self.std = config, mean, std

    @staticmethod
    def read(raw: Any) -> float:
        """A number up to 1e100, so that its square is finite too. Raises InputError."""
        return as_number(raw)

    @classmethod
    def fit(cls, config: Config, targets: Sequence[Any]) -> Self:
        task = cls(config, 0.0, 1.0)
        task.adjust(targets)
        return task

    def adjust(self, targets: Sequence[Any]) -> None:
        """Take the scale from `targets`, those of the rows that are learnt from."""
        numbers = np.array([self.read(target) for target in targets])
        if len(numbers) == 0 or numbers.min() == numbers.max():  # the deviation of equal fractions is not quite zero
            raise DataError("the target is the same in every row; there is nothing to learn")
        self.mean, self.std = float(numbers.mean()), float(numbers.std())
        if not self.std:
            raise DataError("the target differs by less than numbers can tell; give it in a smaller unit")

    @classmethod
    def far_targets(cls, targets: Sequence[Any]) -> list[int]:
        """Which of them lie far away from all others, by their number in the list."""
        numbers = np.array([cls.read(target) for target in targets])
        for tail in TAILS if len(numbers) else ():
            low, high = np.quantile(numbers, (tail, 1 - tail))
            if room := FAR * (high - low):
                return np.flatnonzero((numbers < low - room) | (numbers > high + room)).tolist()
        return []

    def doubts(self, targets: Sequence[Any]) -> list[str]:
        """In words: a few targets decide the scale of all, and with their squares most of the loss."""
        far = self.far_targets(targets)
        if not far:
            return []
        farthest = max((self.read(targets[number]) for number in far), key=lambda number: abs(number - self.mean))
        said = f"{len(far)} of {len(targets)} targets lie far away from the others, the farthest at {farthest:g}"
        return [f"{said}: they decide the scale and most of the loss; `fusebert check` names their rows"]

    @property
    def head_config(self) -> dict[str, Any]:
        return {"name": self.name, "outputs": 1, "pooling": self.config.pooling}

    def target(self, raw: Any) -> np.ndarray:
        """float32[], on the common scale. Raises InputError for what is no number there."""
        scaled = (self.read(raw) - self.mean) / self.std
        if abs(scaled) > float(np.finfo(np.float32).max):
            raise InputError(f"{raw!r} is too far from the training targets, whose mean is {self.mean:g}")
        return np.array(scaled, dtype=np.float32)

    @staticmethod
    def collate(targets: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:  # noqa: ARG004
        """The targets, one under the other."""
        return np.stack(targets)

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        return [Answer(float(value)) for value in self._numbers(logits[:, 0])]

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """A number is more or less right."""
        return None

    def _numbers(self, scaled: np.ndarray) -> np.ndarray:
        return scaled.astype(np.float64) * self.std + self.mean

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics` (mae, rmse, r2, on the user's scale, and Pearson's correlation) and `scatter`, at most 2000 pairs
        of target and answer."""
        from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

        wanted, found = self._numbers(targets), self._numbers(logits[:, 0])
        scores = {
            "mae": float(mean_absolute_error(wanted, found)),
            "rmse": math.sqrt(mean_squared_error(wanted, found)),
            "loss": float(((logits[:, 0].astype(np.float64) - targets) ** 2).mean()),
        }
        if wanted.min() < wanted.max():
            scores["r2"] = float(r2_score(wanted, found))
            if found.min() < found.max():
                scores["pearson"] = float(np.corrcoef(wanted, found)[0, 1])
        pairs = np.stack([wanted, found], axis=1)[:: max(1, -(-len(wanted) // SCATTER_POINTS))]
        return {"metrics": scores, "scatter": pairs.tolist()}

    def save(self, folder: Path) -> None:
        saved = {"config": self.config.model_dump(), "mean": self.mean, "std": self.std}
        write_json(folder / "task.json", saved)

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "task.json")
        return cls(Config(**saved.pop("config")), **saved)
