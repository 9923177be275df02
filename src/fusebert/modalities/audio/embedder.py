"""Recordings -> 25 tokens a second, by convolutions over time and frequency or a pretrained speech encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from fusebert.model.layer_norm import LayerNorm

EPSILON = 1e-3
"""Added to a channel's variance before its root is taken."""
LONGER = 2
"""Recordings that are so many times as long as others do not share their padding."""


class Embedder(nn.Module):
    """Encoder, projection to the trunk's width, and the place of each token and column.

    No recording depends on the others of its batch: convolutions mask the padding, speech encoders read none.

    Args:
        columns: number of audio columns; each has a learned place.
        trunk: the trunk's configuration.
    """

    LEARNING_SETTINGS = ("augment", "frozen")
    """Settings of how it is trained, on which the meaning of its weights does not depend."""

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.config = config
        self.encoder: Any = ConvEncoder(config.width) if config.encoder == "conv" else SpeechEncoder(config)
        if config.frozen:  # else as published: Whisper's positions, fixed sinusoids, are not trained
            self.encoder.requires_grad_(False)
        self.projection = nn.Linear(self.encoder.width, trunk.hidden_size)
        self.positions = nn.Embedding(config.most_tokens, trunk.hidden_size)
        self.column_places = nn.Embedding(columns, trunk.hidden_size)
        self.LayerNorm = LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)

    @property
    def published(self) -> nn.Module | None:
        """The module that starts with published weights, and so learns at a pretrained trunk's rate."""
        return self.encoder if self.config.backbone else None

    def load_pretrained(self) -> None:
        """Read the speech encoder's published weights, where there is one."""
        if self.config.encoder != "conv":
            self.encoder.load_pretrained()

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """Collated features -> float[N, D], packed.

        Args:
            features: `input_features` float[F, bins], R recordings one after another; `recorded` and `frames` int64[R],
                how many of F each has and how many it is to have at another pace and with `silence` int64[R, 2] before
                and behind it; `place` int64[R].
        """
        states, frames = self._states(features), features["frames"]
        counts = self.config.tokens(frames)
        starts = (counts.cumsum(0) - counts).repeat_interleave(counts, output_size=len(states))
        positions = self.positions(torch.arange(len(states), device=states.device) - starts)
        columns = self.column_places(features["place"]).repeat_interleave(counts, dim=0, output_size=len(states))
        return self.dropout(self.LayerNorm(self.projection(states) + positions + columns))

    def _states(self, features: Mapping[str, Tensor]) -> Tensor:
        """float[N, width], packed."""
        mels = features["input_features"].to(self.projection.weight.dtype)
        recorded, frames = features["recorded"].tolist(), features["frames"].tolist()
        recordings, longest = mels.split(recorded), [max(both) for both in zip(recorded, frames, strict=True)]
        found: dict[int, Tensor] = {}
        for rows in alike(longest):
            most = max(longest[row] for row in rows)
            padded = torch.stack([F.pad(recordings[row], (0, 0, 0, most - recorded[row])) for row in rows])
            chosen = torch.tensor(rows, device=mels.device)
            heard = features["frames"][chosen]
            if self.training and self.config.augment:
                padded = perturb(padded, features["recorded"][chosen], heard, features["silence"][chosen])
            states = self._encoded(padded, heard).split([self.config.tokens(frames[row]) for row in rows])
            found |= dict(zip(rows, states, strict=True))
        return torch.cat([found[row] for row in range(len(frames))])

    def _encoded(self, mels: Tensor, frames: Tensor) -> Tensor:
        """float[R, F, bins], int64[R] -> float[N, width], packed; bins is 1 where the encoder reads samples."""
        if not self.config.frozen:
            return self.encoder(mels, frames)
        self.encoder.eval()
        with torch.no_grad():
            return self.encoder(mels, frames)


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of recordings in groups, where the longest is less than LONGER times the shortest: filled up to one of
    half a minute, those of a second would take thirty times the time and the memory."""
    groups: list[list[int]] = []
    longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not groups or lengths[row] * LONGER <= longest:
            groups.append([])
            longest = lengths[row]
        groups[-1].append(row)
    return [sorted(group) for group in groups]


class ConvEncoder(nn.Module):
    """Four convolutions. All halve the frequencies, the first two also the time: FRAMES_PER_TOKEN frames a token."""

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
        """float[R, F, bins], int64[R] frames of each -> float[N, width], packed; padding is zeroed in each layer."""
        hidden = mels[:, None]
        for convolution, norm, stride in zip(self.convolutions, self.norms, self.strides, strict=True):
            frames = -(-frames // stride)
            real = torch.arange(-(-hidden.shape[2] // stride), device=hidden.device) < frames[:, None]
            mask = real[:, None, :, None].to(hidden.dtype)
            hidden = F.gelu(norm(convolution(hidden) * mask, frames)) * mask
        return hidden.transpose(1, 2)[real].flatten(1)


class RecordingNorm(nn.Module):
    """Each channel of each recording to mean 0 and variance 1 (instance normalisation, Ulyanov et al. 2016).

    It removes what a voice or a microphone does to a whole recording, and keeps what changes within it. Batch norm
    would make recordings depend on the others of their batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor, frames: Tensor) -> Tensor:
        """float[R, channels, F, bins], zero behind each recording's int64[R] frames -> float[R, channels, F, bins]."""
        count = (frames * hidden.shape[3])[:, None]
        mean = hidden.sum((2, 3), dtype=torch.float32) / count
        variance = (hidden * hidden).sum((2, 3), dtype=torch.float32) / count - mean**2
        scale = self.weight * (variance.clamp(min=0) + EPSILON).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift[:, :, None, None].to(hidden.dtype), hidden, scale[:, :, None, None].to(hidden.dtype))
