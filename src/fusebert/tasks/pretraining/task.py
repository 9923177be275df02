"""Masked language model, and next sentence or matching: what the model is asked, and how well it answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field

from fusebert.section import Section
from fusebert.storage import read_json, write_json
from fusebert.types import Answer

IGNORED = -100
"""Label where nothing is asked."""
MOST_ROUNDS = 10_000
STATISTICS = ("mlm_loss", "mlm_right", "masked", "next_sentence_loss", "next_sentence_right", "pairs", "label_0")
"""What the head counts of each row, in this order."""


class Config(Section):
    """What rows are made of and what is asked of them."""

    length: int = Field(128, ge=16, le=8192, description="tokens of a full row, [CLS] and [SEP] included")
    mask_rate: float = Field(0.15, gt=0, lt=1, description="share of pieces to guess")
    whole_words: bool = Field(True, description="guess whole words, also Chinese ones, instead of single pieces")
    next_sentence: Annotated[
        Literal["off", "nsp", "sentence_order", "matching"],
        BeforeValidator(lambda given: "off" if given is False else given),  # which is how YAML reads a bare off
    ] = Field(
        "nsp",
        description="nsp: does B follow A (BERT); sentence_order: are A and B in order (ALBERT); matching: does a "
        "table's text belong to what stands beside it",
    )
    next_sentence_weight: float = Field(1.0, gt=0, description="weight of this loss in training; BERT has 1")
    rounds: int = Field(10, ge=1, le=MOST_ROUNDS, description="validations, spread evenly over the run")
    passes: float = Field(10.0, gt=0, description="how often the corpus is read")
    held_out_tokens: int = Field(250_000, ge=1, description="held-out tokens scored in each round (corpora only)")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of one row.

    Args:
        places: int64[M], places of the pieces to guess among the row's tokens.
        pieces: int64[M], what stands there.
        next_sentence: IS_NEXT, NOT_NEXT, or IGNORED; of a table's row, whether its parts belong together.
    """

    places: np.ndarray
    pieces: np.ndarray
    next_sentence: int


class Task:
    """Pre-training, on a corpus or on the rows of a table. It needs no target column."""

    name = "pretraining"
    primary_metric = "loss"
    higher_is_better = False
    metric_names: Sequence[str] = (
        *("loss", "mlm_loss", "mlm_accuracy"),
        *("next_sentence_loss", "next_sentence_accuracy", "next_sentence_majority"),
        *("matching_loss", "matching_accuracy", "matching_majority"),
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    @staticmethod
    def read(raw: Any) -> Any:
        """Pre-training has no targets to read."""
        return raw

    @classmethod
    def fit(cls, config: Config, targets: Sequence[Any]) -> Self:
        return cls(config)

    @property
    def head_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "next_sentence": self.config.next_sentence != "off",
            "next_sentence_weight": self.config.next_sentence_weight,
        }

    @staticmethod
    def collate(targets: Sequence[Target], starts: np.ndarray) -> dict[str, np.ndarray]:
        """`places` int64[M] among all packed tokens, `pieces` int64[M], `next_sentence_label` int64[B]."""
        return {
            "places": np.concatenate([target.places + start for target, start in zip(targets, starts, strict=True)]),
            "pieces": np.concatenate([target.pieces for target in targets]),
            "next_sentence_label": np.array([target.next_sentence for target in targets]),
        }

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """Whether the second text follows the first, from float[B, 2]."""
        return [Answer(bool(row.argmax() == 0), float(1 / (1 + math.exp(-abs(row[0] - row[1]))))) for row in logits]

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether the pair was judged rightly."""
        return bool(raw == answer)

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Losses in nats and accuracies, apart; `majority` is the accuracy of always giving the more frequent answer.

        Args:
            logits: float[B, 7], the STATISTICS of each row.
        """
        sums = dict(zip(STATISTICS, logits.astype(np.float64).sum(axis=0).tolist(), strict=True))
        masked, pairs = max(1.0, sums["masked"]), sums["pairs"]
        mlm_loss = sums["mlm_loss"] / masked
        metrics = {"loss": mlm_loss, "mlm_loss": mlm_loss, "mlm_accuracy": sums["mlm_right"] / masked}
        if pairs:
            question = "matching" if self.config.next_sentence == "matching" else "next_sentence"
            metrics[f"{question}_loss"] = sums["next_sentence_loss"] / pairs
            metrics[f"{question}_accuracy"] = sums["next_sentence_right"] / pairs
            metrics[f"{question}_majority"] = max(sums["label_0"], pairs - sums["label_0"]) / pairs
            metrics["loss"] = mlm_loss + metrics[f"{question}_loss"]
        return {"metrics": metrics}

    def save(self, folder: Path) -> None:
        write_json(folder / "task.json", {"config": self.config.model_dump()})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        return cls(Config(**read_json(folder / "task.json")["config"]))
