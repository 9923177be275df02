"""Where bf16 would be too coarse."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def exactly(layer: nn.Module, hidden: Tensor) -> Tensor:
    """A last linear layer in the precision of its weights, also under autocast.

    What it gives is compared: in bf16, with 8 bits, many scores of a catalogue are equal, and answers move in steps of
    half a percent.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return layer(hidden.to(layer.weight.dtype))  # type: ignore[arg-type]
