"""The settings of a pre-training: what follows from others, and what has nothing to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusebert.config import Recipe
from fusebert.errors import UsageError
from fusebert.model.trunk import SIZES
from fusebert.types import TEXT

DEFAULTS: dict[str, Any] = {
    "task.name": "pretraining",
    "model.dropout": 0.0,
    "training.tokens_per_batch": 4096,
}
"""Beside what the user sets. Few passes over much text leave nothing for dropout to guard against."""
RATE_TIMES_WIDTH, RATE_TO_GO_ON = 0.256, 1e-4
OF_A_CORPUS = ("data.train", "data.root", "model.trunk", "model.dropout", "model.attention_dropout", "training", "task")
"""Settings, or groups of them, that pre-training on a corpus reads."""


def pretraining_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The checked recipe of a run; its epochs are the rounds between two validations.

    Where it is written, it holds neither those nor a learning rate that follows from the trunk's size: it can be
    changed and used again.
    """
    recipe = Recipe.from_flat(DEFAULTS | dict(settings))
    if recipe.task.get("name") != "pretraining":
        raise UsageError(f"task.name={recipe.task.get('name')!r} is not pre-training; use `fusebert train`")
    if recipe.data.train is None:
        raise UsageError("data.train is not set: name the folder of a prepared corpus")
    if "training.epochs" in settings:
        raise UsageError("pre-training counts task.passes over the corpus, with task.rounds validations; not epochs")
    if recipe.modalities.get(TEXT, {}).get("word_dropout"):
        raise UsageError("text.word_dropout would mask what pre-training asks for; set task.mask_rate instead")
    follows: dict[str, Any] = {"epochs": recipe.task_config().rounds}
    if "training.learning_rate" not in settings:
        follows["learning_rate"] = peak_rate(recipe.model.trunk)
    training = recipe.training.model_copy(update=follows)
    training.model_fields_set.difference_update(follows)
    return recipe.model_copy(update={"training": training})


def peak_rate(trunk: str) -> float:
    """The usual peak learning rate: it falls with width (Yang et al. 2022); to go on from a BERT, BERT's own."""
    return RATE_TIMES_WIDTH / SIZES[trunk][1] if trunk in SIZES else RATE_TO_GO_ON


def check_for_corpus(recipe: Recipe) -> None:
    """Raise UsageError for a setting that means nothing for a corpus: text with a held-out part of its own."""
    for key, value in recipe.flat().items():
        if key not in OF_A_CORPUS and key.split(".")[0] not in OF_A_CORPUS and value not in (None, {}):
            raise UsageError(f"{key}={value} means nothing for a corpus, which is text with a held-out part of its own")
    if recipe.task_config().next_sentence == "matching":
        raise UsageError("task.next_sentence=matching is for tables; a corpus has nsp, sentence_order, or off")
