"""BERT's two pre-training heads; the language model looks at the masked tokens only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from fusebert.model.borrowed import Borrowed
from fusebert.model.cpu import Linear, linear
from fusebert.model.cross_entropy import cross_entropy_sum, linear_cross_entropy_sum, log_softmax
from fusebert.model.exact import exactly
from fusebert.model.layer_norm import LayerNorm
from fusebert.model.zero import ZeroEmbedding
from fusebert.tasks.pretraining.task import IGNORED
from fusebert.types import FIRST, Encoded

OUTPUTS_MULTIPLE = 64
"""Tensor cores read rows of 16 bytes; BERT's 30,522 pieces end between two, where a GPU's product is far slower."""


class Head(nn.Module):
    """Masked language model, whose output weights are the trunk's word embeddings, and next sentence prediction.

    Names are those of `transformers.BertForPreTraining`, without the parts it ties.
    """

    def __init__(self, config: dict[str, Any], trunk: Any) -> None:
        super().__init__()
        self.dense = Linear(trunk.hidden_size, trunk.hidden_size)
        self.activation = ACT2FN[trunk.hidden_act]
        self.LayerNorm = LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.bias = ZeroEmbedding(1, trunk.vocab_size)
        self.seq_relationship = nn.Linear(trunk.hidden_size, 2)
        self.asks_next_sentence = self.reads_pooler = bool(config["next_sentence"])
        self.seq_relationship.requires_grad_(self.asks_next_sentence)
        self.next_sentence_weight = float(config.get("next_sentence_weight", 1.0))
        self._words: Any = None  # borrowed by `tie`
        self._compiled: Any = None

    def tie(self, model: Any) -> None:
        """Read out with the trunk's word embeddings."""
        self._words = Borrowed(model.trunk.embeddings.word_embeddings)

    def start_at_frequencies(self, counts: Tensor) -> None:
        """Begin by guessing pieces by how often each occurs, int64[V], and pairs evenly: no steps go into that."""
        with torch.no_grad():
            self.bias.weight[0] = torch.log((counts + 1) / (counts + 1).sum())
            self.seq_relationship.weight.zero_()

    def reads(self, labels: Mapping[str, Tensor] | None) -> str | Tensor:
        """The first token of each row, and the masked ones int64[M]."""
        return FIRST if labels is None else labels["places"]

    def forward(self, encoded: Encoded) -> Tensor:
        """Next-sentence logits float[B, 2]."""
        return exactly(self.seq_relationship, encoded.pooled())

    def readout(self, encoded: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Of the masked tokens, float[M, D], weights float[V, D] and bias float[V]: what makes their logits."""
        hidden = self.LayerNorm(self.activation(self.dense(encoded.last_hidden_state)))
        weight, bias = self._words.module.weight, self.bias.weight[0]
        return hidden, *(filled(weight, bias) if hidden.is_cuda else (weight, bias))

    def masked_loss_sum(self, encoded: Encoded, pieces: Tensor) -> Tensor:
        """The sum over the masked tokens in nats."""
        readout = self.readout(encoded)
        if self._compiled is None:
            return linear_cross_entropy_sum(*readout, pieces)
        return self._compiled(linear(*readout), pieces)

    def loss(self, encoded: Encoded, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The sum of the two losses, each a mean over its `counts`, the second weighted; and both by name."""
        pieces = labels["pieces"]
        mlm = self.masked_loss_sum(encoded, pieces) / max(1, len(pieces))
        if not self.asks_next_sentence:
            return {"loss": mlm, "mlm_loss": mlm}
        asked = labels["next_sentence_label"]
        following = F.cross_entropy(self(encoded), asked, ignore_index=IGNORED, reduction="sum")
        following = following / (asked != IGNORED).sum().clamp(min=1)  # stays on the device
        following = self.next_sentence_weight * following
        return {"loss": mlm + following, "mlm_loss": mlm, "next_sentence_loss": following}

    def compile_loss(self, wanted: bool) -> None:
        """Fewer kernels (torch.compile) for the softmax over all pieces, most of what the head reads and writes."""
        self._compiled = torch.compile(cross_entropy_sum, dynamic=True) if wanted else None

    def counts(self, labels: Mapping[str, Tensor]) -> dict[str, int]:
        """Over how many things each part of the loss is a mean, of labels on the host. The trainer weighs by these."""
        found = {"mlm_loss": len(labels["pieces"])}
        if self.asks_next_sentence:
            found["next_sentence_loss"] = int((labels["next_sentence_label"] != IGNORED).sum())
        return found

    def statistics(self, encoded: Encoded, labels: Mapping[str, Tensor]) -> Tensor:
        """float[B, 7]: of each row, what `task.STATISTICS` names."""
        places, pieces, following = labels["places"], labels["pieces"], labels["next_sentence_label"]
        hidden, weight, bias = self.readout(encoded)
        with torch.autocast(hidden.device.type, enabled=False):  # in bf16 the best pieces would often be equals
            scores = log_softmax(linear(hidden.to(weight.dtype), weight, bias))
        rows = torch.searchsorted(encoded.layout.cu_seqlens, places.to(torch.int32), right=True) - 1
        found = torch.zeros(len(following), 7, device=scores.device)
        each = torch.stack(
            [
                F.nll_loss(scores, pieces, reduction="none"),
                (scores.argmax(dim=1) == pieces).float(),
                torch.ones_like(pieces, dtype=torch.float32),
            ],
            dim=1,
        )
        found[:, :3].index_add_(0, rows, each)
        if self.asks_next_sentence:
            asked = following != IGNORED
            answer = self(encoded)
            found[:, 3] = F.cross_entropy(answer, following, ignore_index=IGNORED, reduction="none")
            found[:, 4] = (answer.argmax(dim=1) == following).float()
            found[:, 5] = asked.float()
            found[:, 6] = (following == 0).float()
        return found


def filled(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Output weights float[V, D] and bias float[V] up to a multiple of OUTPUTS_MULTIPLE, of pieces never guessed."""
    more = -len(weight) % OUTPUTS_MULTIPLE
    return F.pad(weight, (0, 0, 0, more)), F.pad(bias, (0, more), value=-torch.inf)
