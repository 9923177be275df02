"""How long and how fast a training learns where its settings do not say: by its rows, its trunk, and what is new."""

from __future__ import annotations

import math
from typing import Any

from fusebert.config import TrainingSettings
from fusebert.model.modeling import FusebertModel
from fusebert.training.prepare import Prepared

FROM_NOTHING, TO_TUNE = (2000, 10), (1000, 5)
"""Steps wanted, and passes that the size of a batch is chosen for; the smallest tables need more passes."""
EPOCHS = (3, 40)
BATCH_TOKENS = (512, 4096)
RATE_TIMES_WIDTH = 0.128
"""From nothing: 1e-3 for tiny, 5e-4 for mini, 1.7e-4 for base; it falls with width (Yang et al. 2022)."""
TUNED_RATE_TIMES_WIDTH = 0.0768
"""Of a pretrained trunk: 2e-4 for 384 numbers, 1e-4 for base."""
NEW_TIMES = 5
"""By which pictures or sound that begin from nothing learn faster than a pretrained trunk that they join."""
PUBLISHED_RATE = 3e-4
"""At most, where a published encoder of pictures or sound learns at the rate of a trunk from nothing."""
SCHEDULE = ("epochs", "tokens_per_batch", "learning_rate", "new_learning_rate")
"""Settings that may be chosen here."""


def with_defaults(settings: TrainingSettings, prepared: Prepared, model: FusebertModel) -> TrainingSettings:
    """`settings`, and what they leave open; what is chosen does not count as set."""
    given, tokens = settings.model_fields_set, max(1, int(prepared.splits["train"].lengths.sum()))
    pretrained = prepared.trunk_folder is not None
    chosen: dict[str, Any] = {}
    encoders = {name: one.published for name, one in model.embedders.items() if hasattr(one, "published")}
    joined = pretrained and any(encoders[name] is None for name in encoders.keys() - model.taken_over)
    steps, passes = TO_TUNE if pretrained and not joined else FROM_NOTHING
    steps *= settings.gradient_accumulation
    batch = settings.tokens_per_batch
    if "tokens_per_batch" not in given and not hasattr(prepared.task, "sides"):  # matching learns from large ones
        passes = settings.epochs if "epochs" in given else passes
        batch = _within(BATCH_TOKENS, 2 ** round(math.log2(max(1.0, passes * tokens / steps))))
        chosen["tokens_per_batch"] = batch
    if "epochs" not in given:
        chosen["epochs"] = _within(EPOCHS, round(steps * batch / tokens))
    if "learning_rate" not in given:
        rate = (TUNED_RATE_TIMES_WIDTH if pretrained else RATE_TIMES_WIDTH) / model.config.trunk["hidden_size"]
        chosen["learning_rate"] = rate = bearable(rate, model)
        if joined and "new_learning_rate" not in given:
            chosen["new_learning_rate"] = NEW_TIMES * rate
    completed = settings.model_copy(update=chosen)
    completed.model_fields_set.difference_update(chosen)
    return completed


def bearable(rate: float, model: FusebertModel) -> float:
    """`rate`, or what a published encoder in `model` bears."""
    published = any(getattr(embedder, "published", None) is not None for embedder in model.embedders.values())
    return min(rate, PUBLISHED_RATE) if published else rate


def in_words(settings: TrainingSettings, rows: int) -> str:
    """What a training is told, for people."""
    new = f" ({settings.new_learning_rate:.2g} of new parts)" if settings.new_learning_rate else ""
    return (
        f"training: epochs {settings.epochs} of {rows:,} rows, tokens a batch {settings.tokens_per_batch:,}, "
        f"learning rate {settings.learning_rate:.2g}{new}"
    )


def _within(bounds: tuple[int, int], number: int) -> int:
    least, most = bounds
    return max(least, min(most, number))
