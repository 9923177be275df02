"""Texts -> vectors of a pretrained BERT: the mean of the last hidden states, of length 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fusebert.data.sampler import sorted_batches
from fusebert.errors import UsageError
from fusebert.modalities.text.tokenizer import read_tokenizer
from fusebert.model.cpu import keep_freed_memory
from fusebert.model.pretrained import find_trunk, read_config, read_weights
from fusebert.model.trunk import Trunk
from fusebert.types import Layout, row_means

TOKENS_PER_BATCH = 2048
"""Small enough for a batch's activations to stay in a processor's cache."""
TEXTS_AT_ONCE = 4096
"""Tokenized, and sorted by length."""


class Encoder:
    """A pretrained BERT as a sentence encoder (Reimers & Gurevych 2019), over packed rows.

    Args:
        trunk: folder, Hub id, or `package:NAME`.
        max_tokens: longer texts are cut, also where the BERT has fewer positions; [CLS] and [SEP] count.
        precision: fp32 or bf16.
    """

    def __init__(self, trunk: str, max_tokens: int = 256, precision: str = "fp32") -> None:
        keep_freed_memory()
        folder = find_trunk(trunk)
        if folder is None:
            raise UsageError(f"{trunk!r} is a size without weights; name a pretrained BERT")
        config = read_config(folder)
        self.tokenizer = read_tokenizer(folder)
        self.tokenizer.enable_truncation(min(max_tokens, config.max_position_embeddings) - 2)
        self.ends = [self.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]")]
        self.trunk = Trunk(config).eval()
        read_weights(self.trunk, folder)
        self.trunk.to(torch.bfloat16 if precision == "bf16" else torch.float32)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float32[texts, D], in their order."""
        out = np.empty((len(texts), self.trunk.config.hidden_size), dtype=np.float32)
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            ids = self._ids(texts[start : start + TEXTS_AT_ONCE])
            for rows in sorted_batches(np.array([len(one) for one in ids]), TOKENS_PER_BATCH):
                out[start + np.array(rows)] = self._encode([ids[row] for row in rows]).numpy()
        return out

    def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids int64[T] of each text."""
        cls, sep = self.ends
        encoded = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array([cls, *one.ids, sep]) for one in encoded]

    def _encode(self, ids: Sequence[np.ndarray]) -> Tensor:
        """Token ids int64[T] of B texts -> float32[B, D]."""
        lengths = torch.tensor([len(one) for one in ids])
        input_ids = torch.from_numpy(np.concatenate(ids))
        positions = torch.from_numpy(np.concatenate([np.arange(len(one)) for one in ids]))
        cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        tokens = self.trunk.embeddings(input_ids, torch.zeros_like(input_ids), positions)
        hidden = self.trunk.encoder(tokens, Layout(cu_seqlens, tuple(lengths.tolist())))
        return F.normalize(row_means(hidden, lengths), dim=1)
