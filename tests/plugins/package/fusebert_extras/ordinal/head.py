"""The pooled row -> one logit for each grade but the last: is it more?"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.types import FIRST, Encoded


class Head(nn.Module):
    """Dropout and a linear layer."""

    def __init__(self, config: dict[str, Any], trunk: Any) -> None:
        super().__init__()
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)
        self.more = nn.Linear(trunk.hidden_size, config["outputs"])

    def reads(self, labels: Any) -> str:
        """The first token of each row."""
        return FIRST

    def forward(self, encoded: Encoded) -> Tensor:
        """float[B, K - 1]."""
        return self.more(self.dropout(encoded.pooled()))

    def loss(self, encoded: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """Binary cross-entropy of all questions, over int64[B] places of grades."""
        logits = self(encoded).float()
        is_more = labels[:, None] > torch.arange(logits.shape[1], device=labels.device)
        return {"loss": F.binary_cross_entropy_with_logits(logits, is_more.float()), "logits": logits}
