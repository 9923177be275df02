"""Fewer and larger kernels in training (torch.compile)."""

from __future__ import annotations

from typing import Any

import torch


def pick_compile(wanted: bool | None, device: str, task: str) -> bool:
    """Whether training is compiled; without a wish, where the minute it takes pays: long runs on CUDA."""
    return device == "cuda" and task == "pretraining" if wanted is None else wanted


def compile_for_training(model: Any) -> None:
    """Compile each layer of the trunk for batches of any size, and the loss of a head that offers `compile_loss`.

    All layers are the same code, which is compiled once, and once more for the last one, which computes fewer tokens.
    On a CPU attention stays as it is.
    """
    torch._dynamo.config.optimize_ddp = False  # it would cut these pieces once more, for data-parallel training
    for layer in model.trunk.encoder.layer:
        layer.compile(dynamic=True)
    if hasattr(model.head, "compile_loss"):
        model.head.compile_loss(True)


def undo_compilation(model: Any) -> None:
    """The model again as before `compile_for_training`: what follows training would have to be compiled once more."""
    for layer in model.trunk.encoder.layer:
        layer._compiled_call_impl = None
    if hasattr(model.head, "compile_loss"):
        model.head.compile_loss(False)
