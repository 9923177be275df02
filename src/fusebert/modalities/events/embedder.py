"""Events -> tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fusebert.modalities.events.processor import GAPS, Config


class Embedder(nn.Module):
    """Item + type + time since the event before + value + how many events ago, normalised.

    Args:
        columns: number of histories a row may have; each has a learned place.
        trunk: the trunk's configuration.
    """

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        width = trunk.hidden_size
        self.items = nn.Embedding(1 + config.items, width)
        self.types = nn.Embedding(1 + config.types, width)
        self.gaps = nn.Embedding(GAPS, width)
        self.values = nn.Linear(2, width, bias=False)
        self.ages = nn.Embedding(config.max_events, width)
        self.column_places = nn.Embedding(columns, width)
        self.LayerNorm = nn.LayerNorm(width, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """int64[E] each, and float32[E, 2] values, of all rows' events -> float[E, D]."""
        done = self.items(features["items"]) + self.types(features["types"])
        when = self.gaps(features["gaps"]) + self.ages(features["ages"]) + self.column_places(features["place"])
        value = self.values(features["values"].to(self.values.weight.dtype))
        return self.dropout(self.LayerNorm(done + when + value))  # type: ignore[no-any-return]
