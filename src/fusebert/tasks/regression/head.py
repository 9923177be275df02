"""The pooled row -> one number."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.model.exact import exactly
from fusebert.types import ALL, FIRST, Encoded


class Head(nn.Module):
    """A vector for the row, dropout and a linear layer with one output, on the task's common scale.

    Args:
        config: the task's `head_config`.
        trunk: the trunk's configuration.
    """

    def __init__(self, config: dict[str, Any], trunk: Any) -> None:
        super().__init__()
        self.pooling = config.get("pooling", "first")
        self.reads_pooler = self.pooling == "first"
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)
        self.regressor = nn.Linear(trunk.hidden_size, 1)

    def reads(self, labels: Any) -> str:
        """All tokens, for their mean, or the first of each row."""
        return ALL if self.pooling == "mean" else FIRST

    def forward(self, encoded: Encoded) -> Tensor:
        """float[B, 1]."""
        return exactly(self.regressor, self.dropout(encoded.pooled(self.pooling)))

    def loss(self, encoded: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """Mean squared error over float[B]."""
        logits = self(encoded).float()
        return {"loss": F.mse_loss(logits[:, 0], labels), "logits": logits}
