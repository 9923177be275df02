"""Log-mel frames -> 25 tokens a second, by two convolutions over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.modalities.audio.processor import Config
from fusebert.modalities.audio.signal import MEL_BINS

BAND_BINS, SPAN_SHARE = 12, 0.2
"""Widest hidden band, and longest hidden span as a share of the recording (SpecAugment, Park et al. 2019)."""
MOST_SHIFT_BINS = 3


class Embedder(nn.Module):
    """Each recording by itself: what fills up a batch is masked after each convolution.

    Args:
        columns: number of audio columns; each has a learned place.
        trunk: the trunk's configuration.
    """

    LEARNING_SETTINGS = ("augment",)
    """Settings that say how it learns, not what its weights mean."""

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.augment = config.augment
        self.first = nn.Conv1d(MEL_BINS, config.width, 3, stride=2, padding=1)
        self.second = nn.Conv1d(config.width, 2 * config.width, 3, stride=2, padding=1)
        self.projection = nn.Linear(2 * config.width, trunk.hidden_size)
        self.positions = nn.Embedding(config.most_tokens, trunk.hidden_size)
        self.column_places = nn.Embedding(columns, trunk.hidden_size)
        self.LayerNorm = nn.LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """float[R, longest, MEL_BINS], int64[R] frames -> float[sum(ceil(frames / 4)), D], packed."""
        mels, frames = features["input_features"].to(self.projection.weight.dtype), features["frames"]
        if self.training and self.augment:
            mels = hide_and_shift(mels, frames)
        hidden = mels.transpose(1, 2)
        for convolution in (self.first, self.second):  # each of stride two: FRAMES_PER_TOKEN = 4
            frames = (frames + 1) // 2
            hidden = F.gelu(convolution(hidden))
            real = torch.arange(hidden.shape[2], device=hidden.device) < frames[:, None]
            hidden = hidden * real[:, None]
        tokens = self.projection(hidden.transpose(1, 2))
        tokens = tokens + self.positions.weight[: tokens.shape[1]] + self.column_places(features["place"])[:, None]
        return self.dropout(self.LayerNorm(tokens[real]))  # type: ignore[no-any-return]


def hide_and_shift(mels: Tensor, frames: Tensor) -> Tensor:
    """Shift the bins of each recording of float[R, T, MEL_BINS] by up to three, and hide two bands and one span."""
    rows, longest, bins = mels.shape
    device = mels.device
    shift = torch.randint(-MOST_SHIFT_BINS, MOST_SHIFT_BINS + 1, (rows, 1), device=device)
    source = (torch.arange(bins, device=device) + shift).clamp(0, bins - 1)
    mels = mels.gather(2, source[:, None].expand(-1, longest, -1))
    kept = torch.ones(rows, 1, bins, dtype=torch.bool, device=device)
    places = torch.arange(bins, device=device)
    for _ in range(2):
        start = torch.randint(0, bins, (rows, 1), device=device)
        width = torch.randint(0, BAND_BINS + 1, (rows, 1), device=device)
        kept &= ~((places >= start) & (places < start + width))[:, None]
    start = (torch.rand(rows, 1, device=device) * frames[:, None]).long()
    width = (torch.rand(rows, 1, device=device) * SPAN_SHARE * frames[:, None]).long()
    times = torch.arange(longest, device=device)
    return mels * kept * ~((times >= start) & (times < start + width))[:, :, None]
