"""Text ids -> tokens: BERT's own word, position and token-type embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fusebert.modalities.text.processor import Config


class Embedder(nn.Module):
    """Reads the trunk's embeddings, so a pretrained BERT sees exactly the text it was trained on.

    Has no weights of its own.
    """

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.last_type = trunk.type_vocab_size - 1

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """int[T] ids, types and positions, packed -> float[T, D]."""
        types = features["token_type_ids"]
        if self.last_type == 0:  # a trunk that does not tell a second text from the first
            types = types.clamp(max=0)
        return embeddings(features["input_ids"], types, features["position_ids"])
