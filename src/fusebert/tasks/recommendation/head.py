"""Scores of all items for the events that are to be guessed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.model.borrowed import Borrowed
from fusebert.model.cpu import Linear, linear
from fusebert.model.cross_entropy import linear_cross_entropy_sum
from fusebert.model.layer_norm import LayerNorm
from fusebert.model.zero import ZeroEmbedding
from fusebert.tasks.recommendation.ranking import NEVER
from fusebert.tasks.recommendation.task import RULED_OUT
from fusebert.types import ALL, Encoded

EVENTS = "events"


class Head(nn.Module):
    """A language model's head over items; its output weights are the events' item vectors.

    Items that have no vector of their own, only a description, share one bias: else those that nobody has had yet
    would learn, from never being right, that they never are.
    """

    reads_pooler = False

    def __init__(self, config: dict[str, Any], trunk: Any) -> None:
        super().__init__()
        self.outputs, self.trained, self.repeats = config["outputs"], config["trained"], config["repeats"]
        self.causal = config["causal"]
        self.dense = Linear(trunk.hidden_size, trunk.hidden_size)
        self.LayerNorm = LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.own, self.sharing = config["own_vectors"], config["outputs"] - config["own_vectors"]
        self.bias = ZeroEmbedding(1, self.own + 1)
        self._events: Any = None  # borrowed by `tie`

    def tie(self, model: Any) -> None:
        """Read out with the item vectors of the events."""
        self._events = Borrowed(model.embedders[EVENTS])

    def start_at_frequencies(self, counts: Tensor) -> None:
        """Begin by guessing items by how often each occurs, int64[items]: no steps go into that."""
        with torch.no_grad():
            smooth = (counts + 1) / (counts + 1).sum()
            self.bias.weight[0, : self.own] = torch.log(smooth[: self.own])
            if self.sharing:
                self.bias.weight[0, self.own] = torch.log(smooth[self.own :].mean())

    def reads(self, labels: Mapping[str, Tensor] | None) -> str | Tensor:
        """The events to guess; without labels, the newest of each row, which the head picks."""
        return ALL if labels is None or "places" not in labels else labels["places"]

    def readout(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """float[M, D] -> float[M, D], weights float[items, D] and bias float[items]: what makes the scores."""
        hidden = self.LayerNorm(F.gelu(self.dense(hidden)))
        own, items = self.bias.weight[0], self._events.module.item_vectors()[1:]
        return hidden, items, torch.cat([own[:-1], own[-1:].expand(self.sharing)])

    def forward(self, encoded: Encoded) -> Tensor:
        """float[B, items] for the newest event of each row, which is to be guessed; RULED_OUT for what cannot come
        again.

        It is the last token of its row; where tokens see no later ones, the one before it was taught to guess it.
        """
        newest = encoded.layout.cu_seqlens[1:].long() - (2 if self.causal else 1)
        hidden = encoded.last_hidden_state[newest]
        with torch.autocast(hidden.device.type, enabled=False):  # in bf16 many scores would be equal
            scores = linear(*self.readout(hidden.to(self.dense.weight.dtype))).float()
        if not self.repeats:
            seen = encoded.inputs[EVENTS]
            scores = scores.index_put((seen["seen_by"], seen["seen"] - 1), scores.new_tensor(RULED_OUT))
        return scores

    def loss(self, encoded: Encoded, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Mean cross-entropy over the events to guess."""
        items = labels["items"]
        found = linear_cross_entropy_sum(*self.readout(encoded.last_hidden_state), items - 1)
        return {"loss": found / max(1, len(items))}

    def counts(self, labels: Mapping[str, Tensor]) -> dict[str, int]:
        """Over how many events the loss is a mean."""
        return {"loss": len(labels["items"])}

    def statistics(self, encoded: Encoded, labels: Mapping[str, Tensor]) -> Tensor:
        """float[B, 3]: the rank of each row's next item, from 1, whether the training events have it, and whether
        there is a history.

        What scores as high counts as above it; an item that cannot be an answer is never found.
        """
        items, scores = labels["items"], self(encoded)
        own = scores.gather(1, (items - 1).clamp(min=0)[:, None])
        ranks = (scores >= own).sum(dim=1)
        possible = (items > 0) & (own[:, 0] > RULED_OUT)
        ranks = torch.where(possible, ranks, NEVER)
        remembers = encoded.layout.cu_seqlens.diff() > 2  # more than [CLS] and the event to guess
        return torch.stack([ranks, (items > 0) & (items <= self.trained), remembers], dim=1).float()
