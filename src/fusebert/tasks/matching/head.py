"""The two sides of each row -> two vectors, pulled together and away from those of all other rows of the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.model.exact import exactly
from fusebert.model.zero import ZeroEmbedding
from fusebert.types import ALL, FIRST, Encoded

FIRST_SCALE, LARGEST_SCALE = 1 / 0.07, 100.0
"""Of cosines in the loss: where it starts, and what it may learn (Radford et al. 2021, 2.5)."""


class Head(nn.Module):
    """A projection for each side, over one trunk that reads both.

    Args:
        config: the task's `head_config`.
        trunk: the trunk's configuration.
    """

    def __init__(self, config: dict[str, Any], trunk: Any) -> None:
        super().__init__()
        self.pooling = config["pooling"]
        self.reads_pooler = self.pooling == "first"
        self.left = nn.Linear(trunk.hidden_size, config["vector_size"], bias=False)
        self.right = nn.Linear(trunk.hidden_size, config["vector_size"], bias=False)
        self.log_scale = ZeroEmbedding(1, 1)

    def reads(self, labels: Any) -> str:
        """All tokens, for their mean, or the first of each row."""
        return ALL if self.pooling == "mean" else FIRST

    def forward(self, encoded: Encoded, sides: int = 2) -> Tensor:
        """float[B, sides * vector_size]: the vectors of each row, of length 1, from sides * B packed rows."""
        pooled = encoded.pooled(self.pooling)
        vectors = [exactly(self.left, pooled[0::sides])]
        vectors += [exactly(self.right, pooled[side::sides]) for side in range(1, sides)]
        return torch.cat([F.normalize(vector.float(), dim=1) for vector in vectors], dim=1)

    def loss(self, encoded: Encoded, labels: Tensor) -> dict[str, Tensor]:
        """Which right belongs to each left of the batch, and which left to each right (InfoNCE, van den Oord et al.
        2018, both ways as in Radford et al. 2021).

        Args:
            labels: int64[B, 2], equal for equal contents; what any row of the batch shows beside a content belongs to
                it, and is not held against it. int64[B, 3] where rows have hard negatives: no left belongs to any of
                these, unless it is what its right is.
        """
        sides = labels.shape[1]
        left, right, *negatives = self(encoded, sides).chunk(sides, dim=1)
        with torch.autocast(left.device.type, enabled=False):  # up to LARGEST_SCALE, bf16 would be off by a tenth
            return self._loss(left, right, negatives, labels)

    def _loss(self, left: Tensor, right: Tensor, negatives: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():  # the weight, not what is made of it, which would have no gradient any more
            self.log_scale.weight.clamp_(max=math.log(LARGEST_SCALE / FIRST_SCALE))
        scale = FIRST_SCALE * self.log_scale.weight[0, 0].exp()
        same_left, same_right = ((side[:, None] == side).float() for side in labels[:, :2].T)
        belonging = same_left @ same_right > 0  # of each left and each right of the batch
        others = belonging.clone().fill_diagonal_(False)
        scores = (scale * left @ right.T).masked_fill(others, -math.inf)
        of_left = [scores]
        for negative in negatives:
            is_right = (labels[:, 1, None] == labels[None, :, 2]).float()
            belongs = belonging.float() @ is_right > 0
            of_left.append((scale * left @ negative.T).masked_fill(belongs, -math.inf))
        own = torch.arange(len(scores), device=scores.device)
        loss = (F.cross_entropy(torch.cat(of_left, dim=1), own) + F.cross_entropy(scores.T, own)) / 2
        return {"loss": loss, "logits": torch.cat([left, right], dim=1)}
