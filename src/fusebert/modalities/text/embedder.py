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

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """int[T] ids, types and positions, packed -> float[T, D]."""
        return embeddings(features["input_ids"], features["token_type_ids"], features["position_ids"])  # type: ignore[no-any-return]
