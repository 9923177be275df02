"""Recordings as other people might have made them, for training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

VOICES, PITCHES = (0.88, 1.14), (-3.0, 3.0)
"""Bins are stretched and moved within these."""
COLOUR, WAVES = 0.3, 4
"""How far a microphone raises and lowers frequencies, in deviations of a recording's values; in how many waves."""
NOISES, NOISE_DEVIATION = (-4.0, -1.0), 0.3
"""Of a floor under the logarithm, in the same deviations; silence lies at about -1.7."""
BAND_BINS, SPAN_SHARE = 12, 0.2
"""Widest hidden band, and longest hidden span as a share of the recording."""


def perturb(mels: Tensor, recorded: Tensor, frames: Tensor) -> Tensor:
    """Each recording at another pace, with another voice, microphone and room, and with two bands and one span hidden.

    Vocal tracts of other lengths stretch the axis of frequencies (Jaitly & Hinton 2013); a microphone adds to the
    logarithms and noise to the power behind them; hiding is SpecAugment's (Park et al. 2019).

    Args:
        mels: float[R, T, bins], logarithms of mean 0 and deviation 1, zero where a recording is over.
        recorded: int64[R], frames of each recording.
        frames: int64[R], how many they become, said faster or slower.
    """
    rows, longest, bins = mels.shape
    device = mels.device

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, 1, device=device)

    places, times = torch.arange(bins, device=device), torch.arange(longest, device=device)
    heard = said(mels, recorded, frames, places * draw(*VOICES) + draw(*PITCHES))
    heard = heard + colours(rows, bins, device)
    heard = torch.logaddexp(heard, draw(*NOISES)[:, None] + NOISE_DEVIATION * torch.randn_like(heard))
    kept = (times < frames[:, None])[:, :, None].expand_as(heard)
    heard = standard(heard, kept)
    for _ in range(2):
        start, width = draw(0, bins), draw(0, BAND_BINS)
        kept = kept & ~((places >= start) & (places < start + width))[:, None]
    start, width = draw(0, 1) * frames[:, None], draw(0, SPAN_SHARE) * frames[:, None]
    return heard * kept * ~((times >= start) & (times < start + width))[:, :, None]


def said(mels: Tensor, recorded: Tensor, frames: Tensor, heights: Tensor) -> Tensor:
    """Each recording over so many frames as it is to have, from its first to its last; what each bin hears is taken at
    its height, float[R, bins] in bins, of what was recorded."""
    _, longest, bins = mels.shape
    slowness = (recorded - 1) / (frames - 1).clamp(min=1)
    times = torch.arange(longest, device=mels.device) * slowness[:, None]
    across, along = 2 * heights / (bins - 1) - 1, 2 * times / max(1, longest - 1) - 1
    grid = torch.stack(torch.broadcast_tensors(across[:, None], along[:, :, None]), dim=3).to(mels.dtype)
    return F.grid_sample(mels[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def colours(rows: int, bins: int, device: torch.device) -> Tensor:
    """What a microphone adds to each recording's logarithms: float[R, 1, bins], a few waves over the frequencies."""
    sizes, phases = torch.randn(rows, WAVES, 1, device=device), torch.rand(rows, WAVES, 1, device=device)
    turns = torch.arange(1, WAVES + 1, device=device)[:, None] * torch.arange(bins, device=device) / bins
    return COLOUR * (sizes * torch.cos(math.pi * (turns + 2 * phases))).sum(1, keepdim=True)


def standard(values: Tensor, kept: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of what is kept, in each row: float[R, T, bins], bool[R, T, bins]."""
    count = kept.sum((1, 2), keepdim=True).clamp(min=1)
    centred = values - (values * kept).sum((1, 2), keepdim=True) / count
    return centred / (((centred * kept) ** 2).sum((1, 2), keepdim=True) / count).sqrt().clamp(min=1e-3)
