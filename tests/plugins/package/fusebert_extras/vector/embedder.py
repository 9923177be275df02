"""Vectors -> one token each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fusebert_extras.vector.processor import Config


class Embedder(nn.Module):
    """A linear map, and a learned vector for each column."""

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.projection = nn.Linear(config.size, trunk.hidden_size)
        self.columns = nn.Embedding(columns, trunk.hidden_size)
        self.LayerNorm = nn.LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """float32[N, size], int64[N] -> float[N, D]."""
        return self.LayerNorm(self.projection(features["values"]) + self.columns(features["place"]))
