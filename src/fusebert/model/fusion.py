"""How the modalities meet: all in one sequence, side by side after it, or read by the trunk from beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.model.cpu import Dropout, Linear
from fusebert.model.zero import ZeroEmbedding


def one_stream(sources: Sequence[Tensor], order: Tensor) -> Tensor:
    """Z = [CLS, F, x1..xn]: every token of a row in one sequence (VisualBERT, Li et al. 2019).

    Args:
        sources: float[N_i, D]: [CLS] of all rows, then each modality's tokens.
        order: int64[N], where each packed token stands in the sources put one after another.

    Returns:
        float[N, D], each row's tokens together.
    """
    return F.embedding(order, torch.cat(list(sources)))


class Concat(nn.Module):
    """The trunk's vector of the text, and the mean of each other modality's tokens, side by side.

    The vector of the text is the one that the head asks for. A modality that a row lacks is a learned vector.

    Args:
        names: of the modalities beside the text.
    """

    def __init__(self, names: Sequence[str], hidden_size: int) -> None:
        super().__init__()
        self.names = list(names)
        self.absent = nn.Embedding(max(1, len(self.names)), hidden_size)
        self.mix = nn.Linear((1 + len(self.names)) * hidden_size, hidden_size)

    def forward(self, pooled: Tensor, tokens: Mapping[str, Tensor], counts: Mapping[str, Tensor]) -> Tensor:
        """float[B, D] of the text; by modality float[N_m, D] tokens and int64[B], how many a row has -> float[B, D]."""
        parts = [pooled]
        for number, name in enumerate(self.names):
            missing = self.absent.weight[number].expand_as(pooled)
            if name in tokens:
                lengths = counts[name]
                rows = torch.arange(len(lengths), device=pooled.device).repeat_interleave(
                    lengths, output_size=len(tokens[name])
                )
                sums = torch.zeros_like(pooled, dtype=torch.float32).index_add(0, rows, tokens[name].float())
                means = (sums / lengths.clamp(min=1)[:, None]).to(pooled.dtype)
                missing = torch.where(lengths[:, None] > 0, means, missing)
            parts.append(missing)
        return torch.tanh(self.mix(torch.cat(parts, dim=1)))


class TwoStream(nn.Module):
    """After each of its layers, the trunk's tokens look at the tokens of the other modalities.

    What they see is added behind a gate that starts at zero, so a pretrained BERT begins unchanged (Flamingo, Alayrac
    et al. 2022).
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossAttention(trunk) for _ in range(trunk.num_hidden_layers))


class CrossAttention(nn.Module):
    """Gated attention of one sequence to another, row by row."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        size = trunk.hidden_size
        self.heads = trunk.num_attention_heads
        self.query, self.key = Linear(size, size), Linear(size, size)
        self.value, self.output = Linear(size, size), Linear(size, size)
        self.gate = ZeroEmbedding(1, 1)
        self.dropout, self.attention_dropout = Dropout(trunk.hidden_dropout_prob), trunk.attention_probs_dropout_prob

    def forward(self, hidden: Tensor, ours: Padding, other: Tensor, theirs: Padding) -> Tensor:
        """float[N, D] tokens of the trunk and float[N', D] others, and where those of each row are -> float[N, D]."""
        query = self._heads(ours.pad(self.query(hidden)))
        key, value = (self._heads(theirs.pad(part(other))) for part in (self.key, self.value))
        nothing = ~theirs.real.any(dim=1, keepdim=True)  # such a row looks at any, and what comes of it is dropped
        mask = (theirs.real | nothing)[:, None, None]
        dropped = self.attention_dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropped)
        sees = ours.pack((~nothing).expand_as(ours.real)[..., None])
        seen = self.output(ours.pack(seen.transpose(1, 2).flatten(2)))
        return hidden + torch.tanh(self.gate.weight[0]) * self.dropout(seen) * sees

    def _heads(self, padded: Tensor) -> Tensor:
        return padded.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Padding:
    """Between packed tokens and one line a row, known on the host, so that no layer waits for a device.

    Args:
        lengths: int[B], tokens of each row.

    `real` is bool[B, longest], True where a row has a token; there is one place a row at least.
    """

    def __init__(self, lengths: np.ndarray, device: torch.device) -> None:
        real = np.arange(max(1, lengths.max())) < lengths[:, None]
        places = np.maximum(0, real.cumsum() - 1).reshape(real.shape)  # behind a row's end, its last token again
        found = (real, places, np.flatnonzero(real))
        self.real, self._places, self._kept = (torch.from_numpy(array).to(device, non_blocking=True) for array in found)

    def pad(self, packed: Tensor) -> Tensor:
        """float[N, D] -> float[B, longest, D], with another token where `real` is False."""
        return F.embedding(self._places, packed)

    def pack(self, padded: Tensor) -> Tensor:
        """[B, longest, K] -> [N, K]."""
        return padded.flatten(0, 1).index_select(0, self._kept)
