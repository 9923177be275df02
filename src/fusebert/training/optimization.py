"""Which parameter learns how fast, and when."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from fusebert.config import TrainingSettings
from fusebert.errors import UsageError
from fusebert.model.zero import ZeroEmbedding
from fusebert.types import TEXT

BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d


def build_optimizer(model: Any, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2017) with layer-wise decay of the learning rate (Howard & Ruder 2018).

    Pretrained encoders learn at the rate of the trunk's last layer, new parts at `new_learning_rate`. Biases and
    normalisations are not decayed, as in BERT, nor what starts at zero. Each group keeps its peak rate under `peak`.
    """
    _freeze(model, settings.freeze)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    layers = len(model.trunk.encoder.layer)
    published = {
        id(weight)
        for embedder in model.embedders.values()
        if (encoder := getattr(embedder, "published", None)) is not None
        for weight in encoder.parameters()
    }
    from_zero = {id(module.weight) for module in model.modules() if isinstance(module, ZeroEmbedding)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            peak = settings.learning_rate if id(parameter) in published else _peak(name, layers, settings)
            decay = 0.0 if parameter.ndim < 2 or id(parameter) in from_zero else settings.weight_decay
            groups.setdefault((peak, decay), []).append(parameter)
    if not groups:
        raise UsageError("training.freeze leaves nothing to learn")
    return torch.optim.AdamW(
        [{"params": found, "peak": peak, "lr": peak, "weight_decay": decay} for (peak, decay), found in groups.items()],
        fused=True,
    )


def _freeze(model: Any, parts: tuple[str, ...]) -> None:
    modules = {"trunk": model.trunk, "head": model.head} | dict(model.embedders.named_children())
    for part in parts:
        if part not in modules:
            raise UsageError(f"training.freeze names {part!r}; the model has {', '.join(modules)}")
        if not any(True for _ in modules[part].parameters()):
            raise UsageError(f"training.freeze names {part!r}, which has no weights of its own; freeze the trunk")
        modules[part].requires_grad_(False)
    if parts and not set(model.embedders) - {TEXT, *parts}:  # all that would learn of them is what tells them apart
        model.modality_embeddings.requires_grad_(False)


def hold_frozen_statistics(model: nn.Module) -> None:
    """Frozen batch norms keep their running mean and variance, also in training."""
    for module in model.modules():
        if isinstance(module, BATCH_NORMS) and module.weight is not None and not module.weight.requires_grad:
            module.eval()


def _peak(name: str, layers: int, settings: TrainingSettings) -> float:
    if not name.startswith("trunk."):
        return settings.new_learning_rate or settings.learning_rate
    if name.startswith("trunk.embeddings."):
        depth = layers
    elif found := re.match(r"trunk\.encoder\.layer\.(\d+)\.", name):
        depth = layers - 1 - int(found[1])
    else:
        depth = 0
    return settings.learning_rate * settings.layer_decay**depth


def learning_rate_factor(step: int, steps: int, warmup_ratio: float) -> float:
    """Share of the peak rate at a step from 0: linear warm-up, then half a cosine down to zero."""
    warmup = max(1, round(steps * warmup_ratio))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Each group's rate becomes `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
