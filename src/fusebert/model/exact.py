"""Outputs for which bf16 is too coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def exactly(layer: nn.Module, hidden: Tensor) -> Tensor:
    """`layer(hidden)`, of an output layer, in the dtype of its weights, also under autocast.

    Outputs are compared with each other: in bf16, with 8 bits, many scores of a catalogue are equal, and numbers move
    in steps of half a percent.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return layer(hidden.to(layer.weight.dtype))  # type: ignore[arg-type]
