"""Codes and encoded numbers of a table's columns -> one token a column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusebert.modalities.table.processor import Config
from fusebert.model.layer_norm import LayerNorm
from fusebert.model.zero import ZeroEmbedding


class Embedder(nn.Module):
    """A learned vector for each column, one for each of its categories, and a linear map of its number, summed.

    Categories start at zero, so that one seen in a few rows stays close to what its column says of any.

    Args:
        columns: number of columns.
        trunk: the trunk's configuration.
    """

    LEARNING_SETTINGS = ("value_dropout",)
    """Settings that say how it learns, not what its weights mean."""

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.width = config.width
        self.columns = nn.Embedding(columns, trunk.hidden_size)
        self.values = ZeroEmbedding(config.codes, trunk.hidden_size)
        self.slopes = nn.Embedding(columns * config.width, trunk.hidden_size)
        self.LayerNorm = LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """int64[B, K] codes, float[B, K, width] encoded numbers -> float[B * K, D]."""
        slopes = self.slopes.weight.unflatten(0, (-1, self.width))  # float[K, width, D]
        numbers = torch.einsum("bkw,kwd->bkd", features["encoded"].to(slopes.dtype), slopes)
        tokens: Tensor = self.LayerNorm(self.columns.weight + self.values(features["codes"]) + numbers)
        return self.dropout(tokens).flatten(0, 1)
