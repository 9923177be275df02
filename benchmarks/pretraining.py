"""What the pre-training benchmarks share: pairs as transformers' collator takes them, and the operations of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class Unmasked(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The pairs of `PairRows` before masking: their collator masks for itself."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.cls, self.sep = rows, rows.special["[CLS]"], rows.special["[SEP]"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        start_a, end_a, start_b, end_b = self.rows.pairs.spans[number].tolist()
        a, b = self.rows.corpus.ids[start_a:end_a].tolist(), self.rows.corpus.ids[start_b:end_b].tolist()
        return {
            "input_ids": [self.cls, *a, self.sep, *b, self.sep],
            "token_type_ids": [0] * (len(a) + 2) + [1] * (len(b) + 1),
            "special_tokens_mask": [1, *[0] * len(a), 1, *[0] * len(b), 1],
            "next_sentence_label": int(self.rows.pairs.labels[number]),
        }


def operations(trunk: Any, lengths: Sequence[int], masked: int) -> float:
    """Of a training step on rows of these lengths: the language model's head on the masked pieces only; the last layer
    on these and each row's first, but for the keys and values of all."""
    tokens = np.asarray(lengths, dtype=np.float64)
    layers, hidden = trunk.num_hidden_layers, trunk.hidden_size
    read = 1 + masked * tokens / tokens.sum()
    queries_and_after = 2 * hidden**2 + 2 * hidden * trunk.intermediate_size
    found = 6.0 * (2 * hidden**2 * layers + queries_and_after * (layers - 1)) * tokens.sum()
    found += 6.0 * queries_and_after * read.sum()
    found += 12.0 * hidden * ((layers - 1) * tokens**2 + read * tokens).sum()
    return float(found + 6.0 * (hidden**2 + hidden * trunk.vocab_size) * masked)
