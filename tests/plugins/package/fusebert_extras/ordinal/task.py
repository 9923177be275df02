"""Whole grades in an order, such as 1 to 5 stars: to be off by one is better than to be off by four."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field
from scipy.special import expit

from fusebert.errors import DataError, InputError
from fusebert.modalities.values import as_number
from fusebert.section import Section
from fusebert.storage import read_json, write_json
from fusebert.types import Answer

MOST_GRADES = 100


class Config(Section):
    """Which grades there are."""

    lowest: int | None = Field(None, description="grade; else that of the training rows")
    highest: int | None = Field(None, description="grade; else that of the training rows")


class Task:
    """K grades are K - 1 questions: is it more than the first, more than the second, ... (Frank & Hall 2001)."""

    name = "ordinal"
    primary_metric = "mae"
    higher_is_better = False
    metric_names: Sequence[str] = ("mae", "accuracy", "within_one", "loss")

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest

    @staticmethod
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not (number := as_number(raw)).is_integer():
            raise InputError(f"{raw!r:.60} is not a whole grade")
        return int(number)

    @classmethod
    def fit(cls, config: Config, targets: Sequence[Any]) -> Self:
        given = [cls.read(target) for target in targets]
        lowest = min(given) if config.lowest is None else config.lowest
        highest = max(given) if config.highest is None else config.highest
        if not 1 <= highest - lowest < MOST_GRADES:
            raise DataError(f"2 to {MOST_GRADES} grades expected, not {lowest} to {highest}")
        return cls(lowest, highest)

    @property
    def head_config(self) -> dict[str, Any]:
        return {"name": self.name, "outputs": self.highest - self.lowest}

    def target(self, raw: Any) -> np.ndarray:
        """int64[], the place of the grade from 0."""
        grade = self.read(raw)
        if not self.lowest <= grade <= self.highest:
            raise InputError(f"grade {grade} is not from {self.lowest} to {self.highest} (task.lowest, task.highest)")
        return np.array(grade - self.lowest)

    @staticmethod
    def collate(targets: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:
        return np.stack(targets)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float[B, K - 1] -> float[B, K]. More than a higher grade is never likelier than more than a lower one."""
        more = np.minimum.accumulate(expit(logits.astype(np.float64)), axis=1)
        return -np.diff(more, prepend=1, append=0, axis=1)

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        answers = []
        for row in self.probabilities(logits):
            best = np.argsort(-row, kind="stable")[:top].tolist()
            ranked = [(self.lowest + place, float(row[place])) for place in best]
            answers.append(Answer(*ranked[0], ranked if top > 1 else []))
        return answers

    def is_right(self, raw: Any, answer: Any) -> bool:
        return self.read(raw) == answer

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics` (how far off, how often right, how often at most one off, and the head's loss) and `confusion`."""
        found = self.probabilities(logits).argmax(axis=1)
        off, logits = np.abs(found - targets), logits.astype(np.float64)
        losses = np.logaddexp(0, logits) - logits * (targets[:, None] > np.arange(logits.shape[1]))
        scores = {"mae": off.mean(), "accuracy": (off == 0).mean(), "within_one": (off <= 1).mean()}
        counts = np.zeros([1 + self.highest - self.lowest] * 2, dtype=int)
        np.add.at(counts, (targets, found), 1)
        confusion = {"labels": list(range(self.lowest, self.highest + 1)), "counts": counts.tolist()}
        metrics = {name: float(score) for name, score in {**scores, "loss": losses.mean()}.items()}
        return {"metrics": metrics, "confusion": confusion}

    def save(self, folder: Path) -> None:
        write_json(folder / "task.json", {"lowest": self.lowest, "highest": self.highest})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        return cls(**read_json(folder / "task.json"))
