"""Recordings -> 25 tokens a second, by convolutions over time and frequency or a published speech encoder."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.modalities.audio.augment import perturb
from fusebert.modalities.audio.encoders import SpeechEncoder
from fusebert.modalities.audio.encoders import prepare as prepare
from fusebert.modalities.audio.processor import Config
from fusebert.modalities.audio.signal import MEL_BINS

EPSILON = 1e-3


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
        self.encoder: Any = ConvEncoder(config.width) if config.encoder == "conv" else SpeechEncoder(config)
        if config.frozen:  # else as published: Whisper's positions, a fixed wave, do not learn
            self.encoder.requires_grad_(False)
        self.projection = nn.Linear(self.encoder.width, trunk.hidden_size)
        self.positions = nn.Embedding(config.most_tokens, trunk.hidden_size)
        self.column_places = nn.Embedding(columns, trunk.hidden_size)
        self.LayerNorm = nn.LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    @property
    def published(self) -> nn.Module | None:
        """What begins with published weights, and so learns as slowly as a pretrained trunk."""
        return self.encoder if self.config.backbone else None

    def load_pretrained(self) -> None:
        """Read the speech encoder's published weights, where there is one."""
        if self.config.encoder != "conv":
            self.encoder.load_pretrained()

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """float[R, longest, bins], int64[R] recorded and frames -> float[N, D], packed."""
        heard, frames = features["input_features"].to(self.projection.weight.dtype), features["frames"]
        if self.training and self.config.augment:
            heard = perturb(heard, features["recorded"], frames)
        found = self._encoded(heard, frames)
        counts = self.config.tokens(frames)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts, output_size=len(found))
        places = self.positions(torch.arange(len(found), device=found.device) - starts)
        columns = self.column_places(features["place"]).repeat_interleave(counts, dim=0, output_size=len(found))
        return self.dropout(self.LayerNorm(self.projection(found) + places + columns))

    def _encoded(self, heard: Tensor, frames: Tensor) -> Tensor:
        if not self.config.frozen:
            return self.encoder(heard, frames)
        self.encoder.eval()
        with torch.no_grad():
            return self.encoder(heard, frames)


class ConvEncoder(nn.Module):
    """Four convolutions, each of which halves the frequencies; the first two halve the time as well, so that
    FRAMES_PER_TOKEN frames make a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = (1, width, 2 * width, 4 * width, 4 * width)
        self.strides = (2, 2, 1, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=(stride, 2), padding=1)
            for (before, after), stride in zip(pairwise(channels), self.strides, strict=True)
        )
        self.norms = nn.ModuleList(RecordingNorm(after) for after in channels[1:])
        self.width = channels[-1] * (MEL_BINS >> len(self.strides))

    def forward(self, mels: Tensor, frames: Tensor) -> Tensor:
        """float[R, longest, bins], int64[R] frames -> float[N, width], packed; what fills up a batch is hidden from all
        that follows."""
        hidden = mels[:, None]
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            frames = -(-frames // stride)
            real = torch.arange(-(-hidden.shape[2] // stride), device=hidden.device) < frames[:, None]
            inside = real[:, None, :, None].to(hidden.dtype)
            hidden = F.gelu(norm(convolution(hidden) * inside, frames)) * inside
        return hidden.transpose(1, 2)[real].flatten(1)


class RecordingNorm(nn.Module):
    """Each channel of each recording to mean 0 and deviation 1 (instance normalisation, Ulyanov et al. 2016).

    What a voice or a microphone does to a whole recording goes, what changes within it stays. Rows stay apart, which
    norms over a batch would tie together.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """float[R, C, T, F], zero where a recording of so many frames, int64[R], is over -> float[R, C, T, F]."""
        count = (frames * hidden.shape[3])[:, None]
        mean = hidden.sum((2, 3), dtype=torch.float32) / count
        variance = (hidden * hidden).sum((2, 3), dtype=torch.float32) / count - mean**2
        scale = self.weight * (variance.clamp(min=0) + EPSILON).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, :, None, None].to(hidden.dtype), hidden, scale[:, :, None, None].to(hidden.dtype))
