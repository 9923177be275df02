"""The pooled row -> one logit a label."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.model.exact import exactly
from fusebert.types import ALL, FIRST, Encoded


class Head(nn.Module):
    """BERT's classifier: a vector for the row, dropout and a linear layer.

    Args:
        config: the task's `head_config`.
        trunk: the trunk's configuration.
    """

    def __init__(self, config: dict[str, Any], trunk: Any) -> None:
        super().__init__()
        self.multi_label = config.get("multi_label", False)
        self.label_smoothing = config.get("label_smoothing", 0.0)
        self.pooling = config.get("pooling", "first")
        self.reads_pooler = self.pooling == "first"
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)
        self.classifier = nn.Linear(trunk.hidden_size, config["outputs"])
        self.weights: Tensor
        weights = torch.tensor(config["weights"]) if "weights" in config else torch.ones(config["outputs"])
        self.register_buffer("weights", weights)

    def reads(self, labels: Any) -> str:
        """All tokens, for their mean, or the first of each row."""
        return ALL if self.pooling == "mean" else FIRST

    def forward(self, encoded: Encoded) -> Tensor:
        """float[B, C]."""
        pooled = encoded.pooled(self.pooling)
        return exactly(self.classifier, self.dropout(pooled))

    def loss(self, encoded: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy over int[B] classes, or binary cross-entropy over float[B, C + 1], whose last column counts
        labels that have no class; mean over the rows.

        What is weighed is the row's own label. torch would weigh what smoothing spreads by the labels that it goes to,
        and a rare one would be the answer to all.
        """
        logits = self(encoded).float()
        if self.multi_label:
            given = labels[:, :-1]
            smooth = given * (1 - self.label_smoothing) + self.label_smoothing / 2
            weights = torch.where(given > 0, self.weights, 1.0)
            each = (weights * F.binary_cross_entropy_with_logits(logits, smooth, reduction="none")).mean(dim=1)
        else:
            each = F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)
            each = self.weights[labels] * each
        return {"loss": each.mean(), "logits": logits}
