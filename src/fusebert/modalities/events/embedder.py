"""Events -> tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.modalities.events.processor import GAPS, UNKNOWN, Config
from fusebert.model.layer_norm import LayerNorm
from fusebert.model.zero import ZeroEmbedding

OWN_HIDDEN = 0.2
"""Share of items that have only their description in a step of training, so that it learns to stand alone (DropoutNet,
Volkovs et al. 2017)."""


class Embedder(nn.Module):
    """Item + type + time since the event before + value + how many events ago + mean of the words, normalised.

    Args:
        columns: number of histories a row may have; each has a learned place.
        trunk: the trunk's configuration.
    """

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        width = trunk.hidden_size
        # as a rule the training rows have no unknown ones, so they say nothing; one to be guessed has a learned vector
        nothing = None if config.asks_next else UNKNOWN
        vectors = config.own_vectors if config.content_size else config.items
        self.items = nn.Embedding(1 + vectors, width, padding_idx=nothing)
        if config.content_size:
            self.content = nn.Buffer(torch.zeros(1 + config.items, config.content_size))
            self.content_centre = nn.Buffer(torch.zeros(config.content_size))
            self.content_scale = nn.Buffer(torch.ones(()))
            self.description = nn.Linear(config.content_size, width, bias=False)
        # of what comes next items say most; the sum is normalised, and what most events share takes room from them
        shared = ZeroEmbedding if config.asks_next else nn.Embedding
        self.types = shared(1 + config.types, width, padding_idx=nothing)
        self.gaps = shared(GAPS, width)
        self.values = nn.Linear(2, width, bias=False)
        self.ages = nn.Embedding(config.max_events, width)
        self.column_places = shared(columns, width)
        self.LayerNorm = LayerNorm(width, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    def describe(self, content: Tensor, centre: Tensor, scale: float) -> None:
        """Take over what describes each item, float[items, C], and what makes such of a raw description: less its
        centre, float[C], by its scale."""
        self.content[1:] = content
        self.content_centre.copy_(centre)
        self.content_scale.fill_(scale)

    def item_vectors(self) -> Tensor:
        """float[1 + items, D], the unknown one first. A described item has what its description says, and, where it
        is frequent enough, a vector of its own besides."""
        own = self.items.weight
        if not hasattr(self, "content"):
            return own
        described = self.description(self.content)
        if self.training:
            own = own * (torch.rand(len(own), 1, device=own.device) >= OWN_HIDDEN)
        return described + F.pad(own, (0, 0, 0, len(described) - len(own))).to(described.dtype)

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """int64[E] each, float32[E, 2] values, and int64 pieces of text, of all rows' events -> float[E, D]."""
        items = F.embedding(features["items"], self.item_vectors(), padding_idx=self.items.padding_idx)
        done = items + self.types(features["types"])
        when = self.gaps(features["gaps"]) + self.ages(features["ages"]) + self.column_places(features["place"])
        value = self.values(features["values"].to(self.values.weight.dtype))
        found = done + when + value
        if len(features["pieces"]):
            words: Any = embeddings.word_embeddings
            starts = features["piece_counts"].cumsum(0) - features["piece_counts"]
            found = found + F.embedding_bag(features["pieces"], words.weight, starts, mode="mean")
        return self.dropout(self.LayerNorm(found))
