"""Recordings -> 25 tokens a second, by two convolutions over time and frequency or a published speech encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.modalities.audio.augment import perturb
from fusebert.modalities.audio.encoders import SpeechEncoder
from fusebert.modalities.audio.encoders import prepare as prepare
from fusebert.modalities.audio.processor import Config
from fusebert.modalities.audio.signal import MEL_BINS


class Embedder(nn.Module):
    """Each recording by itself: what fills up a batch is masked after each convolution.

    Args:
        columns: number of audio columns; each has a learned place.
        trunk: the trunk's configuration.
    """

    LEARNING_SETTINGS = ("augment", "frozen")
    """Settings that say how it learns, not what its weights mean."""

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.config = config
        if config.encoder == "conv":
            self.first = nn.Conv2d(1, config.width, 3, stride=2, padding=1)
            self.second = nn.Conv2d(config.width, 2 * config.width, 3, stride=2, padding=1)
        else:
            self.encoder = SpeechEncoder(config)
            self.encoder.requires_grad_(not config.frozen)
        width = 2 * config.width * (MEL_BINS // 4) if config.encoder == "conv" else self.encoder.width
        self.projection = nn.Linear(width, trunk.hidden_size)
        self.positions = nn.Embedding(config.most_tokens, trunk.hidden_size)
        self.column_places = nn.Embedding(columns, trunk.hidden_size)
        self.LayerNorm = nn.LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    def load_pretrained(self) -> None:
        """Read the speech encoder's published weights, where there is one."""
        if self.config.encoder != "conv":
            self.encoder.load_pretrained()

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """float[R, longest, bins], int64[R] frames -> float[N, D], packed."""
        heard, frames = features["input_features"].to(self.projection.weight.dtype), features["frames"]
        found = self._convolved(heard, frames) if self.config.encoder == "conv" else self._encoded(heard, frames)
        counts = self.config.tokens(frames)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts, output_size=len(found))
        places = self.positions(torch.arange(len(found), device=found.device) - starts)
        columns = self.column_places(features["place"]).repeat_interleave(counts, dim=0, output_size=len(found))
        return self.dropout(self.LayerNorm(self.projection(found) + places + columns))  # type: ignore[no-any-return]

    def _encoded(self, heard: Tensor, frames: Tensor) -> Tensor:
        if not self.config.frozen:
            return self.encoder(heard, frames)  # type: ignore[no-any-return]
        self.encoder.eval()
        with torch.no_grad():
            return self.encoder(heard, frames)  # type: ignore[no-any-return]

    def _convolved(self, mels: Tensor, frames: Tensor) -> Tensor:
        if self.training and self.config.augment:
            mels = perturb(mels, frames)
        hidden = mels[:, None]
        for convolution in (self.first, self.second):  # each of stride two: FRAMES_PER_TOKEN = 4
            frames = (frames + 1) // 2
            hidden = F.gelu(convolution(hidden))
            real = torch.arange(hidden.shape[2], device=hidden.device) < frames[:, None]
            hidden = hidden * real[:, None, :, None]
        return hidden.transpose(1, 2)[real].flatten(1)
