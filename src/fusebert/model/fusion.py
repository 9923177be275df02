"""How the modalities' tokens meet in the trunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def one_stream(sources: Sequence[Tensor], order: Tensor) -> Tensor:
    """Z = [CLS, F, x1..xn]: every token of a row in one sequence (VisualBERT, Li et al. 2019).

    Args:
        sources: float[N_i, D]: [CLS] of all rows, then each modality's tokens.
        order: int64[N], where each packed token stands in the sources put one after another.

    Returns:
        float[N, D], each row's tokens together.
    """
    return F.embedding(order, torch.cat(list(sources)))
