"""How the modalities meet: in one sequence, joined after the trunk (concat), or by cross-attention (two_stream)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.model.cpu import Dropout, Linear
from fusebert.model.zero import ZeroEmbedding
from fusebert.types import row_means


def one_stream(sources: Sequence[Tensor], order: Tensor) -> Tensor:
    """All tokens of a row in one sequence: [CLS], then each modality's (VisualBERT, Li et al. 2019).

    Args:
        sources: [CLS] of all rows, float[B, D], then each modality's tokens, float[its tokens, D].
        order: int64[N], the place of each packed token in the concatenated sources.

    Returns:
        float[N, D], packed.
    """
    return F.embedding(order, torch.cat(list(sources)))


class Concat(nn.Module):
    """The trunk's vector of the text and the mean of each other modality's tokens, concatenated and mixed by a layer.

    The vector of the text is the one that the head asks for. Of a modality that a row lacks, it is a learned vector.

    Args:
        names: of the modalities beside the text.
    """

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        self.names = list(names)
        self.absent = nn.Embedding(max(1, len(self.names)), hidden_size)
        self.mix = nn.Linear((1 + len(self.names)) * hidden_size, hidden_size)

    def forward(self, pooled: Tensor, tokens: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> Tensor:
        """float[B, D] -> float[B, D].

        Args:
            pooled: the vector of the text.
            tokens: by modality, float[its tokens, D], packed.
            counts: by modality, int64[B], how many tokens each row has.
        """
        vectors = [pooled]
        for number, name in enumerate(self.names):
            vector = self.absent.weight[number].expand_as(pooled)
            if name in tokens:
                mean = row_means(tokens[name], counts[name]).to(pooled.dtype)
                vector = torch.where(counts[name][:, None] > 0, mean, vector)
            vectors.append(vector)
        return torch.tanh(self.mix(torch.cat(vectors, dim=1)))


class TwoStream(nn.Module):
    """After each of its layers, the trunk's tokens attend to the tokens of the other modalities.

    The result is added through a gate that starts at zero, so a pretrained BERT begins unchanged (Flamingo, Alayrac et
    al. 2022).
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttention(trunk) for _ in range(trunk.num_hidden_layers))


class CrossAttention(nn.Module):
    """Gated attention of the tokens of each row to other tokens of the same row."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        size = trunk.hidden_size
        self.heads = trunk.num_attention_heads
        self.query, self.key = Linear(size, size), Linear(size, size)
        self.value, self.output = Linear(size, size), Linear(size, size)
        self.gate = ZeroEmbedding(1, 1)
        self.dropout, self.attention_dropout = Dropout(trunk.hidden_dropout_prob), trunk.attention_probs_dropout_prob

    def forward(self, hidden: Tensor, ours: Padding, other: Tensor, theirs: Padding) -> Tensor:
        """float[N, D] -> float[N, D].

        Args:
            hidden: the trunk's tokens, packed.
            ours: where those of each row are.
            other: float[others, D], the other modalities' tokens, packed.
            theirs: where those of each row are.
        """
        query = self._heads(ours.pad(self.query(hidden)))
        key, value = (self._heads(theirs.pad(part(other))) for part in (self.key, self.value))
        is_empty = ~theirs.real.any(dim=1, keepdim=True)  # such a row attends to anything, and the result is zeroed
        mask = (theirs.real | is_empty)[:, None, None]
        dropout = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        update = self.output(ours.pack(context.transpose(1, 2).flatten(2)))
        has_others = ours.pack((~is_empty).expand_as(ours.real)[..., None])
        return hidden + torch.tanh(self.gate.weight[0]) * self.dropout(update) * has_others

    def _heads(self, padded: Tensor) -> Tensor:
        """float[B, longest, D] -> float[B, heads, longest, D / heads]."""
        return padded.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Padding:
    """Packed tokens to padded rows and back; made on the host, so that no layer waits for a device.

    Args:
        lengths: int64[B], tokens of each row.

    `real` is bool[B, longest], True where a row has a token; `longest` is at least 1.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        real = np.arange(max(1, lengths.max())) < lengths[:, None]
        pad_index = np.maximum(0, real.cumsum() - 1).reshape(real.shape)  # behind a row's end, its last token again
        arrays = (real, pad_index, np.flatnonzero(real))
        self.real, self._pad_index, self._pack_index = (on_device(array, device) for array in arrays)

    def pad(self, packed: Tensor) -> Tensor:
        """float[N, D] -> float[B, longest, D], with another token where `real` is False."""
        return F.embedding(self._pad_index, packed)

    def pack(self, padded: Tensor) -> Tensor:
        """[B, longest, ...] -> [N, ...]."""
        return padded.flatten(0, 1).index_select(0, self._pack_index)


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A copy there, without waiting for what the device still computes."""
    return torch.from_numpy(array).to(device, non_blocking=True)
