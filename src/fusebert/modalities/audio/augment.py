"""Augmentation of log-mel spectrograms in training: pace, silence, voice, microphone, noise, hidden bands and spans."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STRETCHES, SHIFTS = (0.88, 1.14), (-3.0, 3.0)
"""Factors on the frequency axis, for other vocal tracts; and bins by which it moves."""
COLOUR, WAVES = 0.3, 4
"""Standard deviation of a microphone's frequency response, in those of a recording's values; waves that it sums."""
NOISES, NOISE_DEVIATION = (-4.0, -1.0), 0.3
"""Level and standard deviation of the noise, in the same unit; silence lies at about -1.7."""
BAND_BINS, SPAN_SHARE = 12, 0.2
"""Widest hidden band, and longest hidden span as a share of the recording."""


def perturb(mels: Tensor, recorded: Tensor, frames: Tensor, silence: Tensor) -> Tensor:
    """Each recording at another pace, with silence around it, with another voice, microphone and noise, and with two
    bands and one span hidden.

    Other vocal tracts stretch the frequency axis (Jaitly & Hinton 2013); a microphone adds to log power, noise to
    power; hiding is SpecAugment's (Park et al. 2019).

    Args:
        mels: float[R, F, bins], log power of mean 0 and standard deviation 1, zero behind a recording's end.
        recorded: int64[R], frames of each recording.
        frames: int64[R], how many they become at the other pace and with silence, at most F.
        silence: int64[R, 2], how many of these come before the recording, and behind it.

    Returns:
        float[R, F, bins], zero where hidden and behind the end.
    """
    recordings, longest, bins = mels.shape
    device = mels.device

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(recordings, 1, device=device)

    bin_index, times = torch.arange(bins, device=device), torch.arange(longest, device=device)
    mels = warp(mels, recorded, frames, silence, bin_index * draw(*STRETCHES) + draw(*SHIFTS))
    sounding = ((times >= silence[:, :1]) & (times < (frames - silence[:, 1])[:, None]))[:, :, None]
    mels = torch.where(sounding, mels, mels.masked_fill(~sounding, torch.inf).amin((1, 2), keepdim=True))
    mels = mels + frequency_responses(recordings, bins, device)
    mels = torch.logaddexp(mels, draw(*NOISES)[:, None] + NOISE_DEVIATION * torch.randn_like(mels))
    real = (times < frames[:, None])[:, :, None].expand_as(mels)
    mels = standardize(mels, real)
    for _ in range(2):
        start, width = draw(0, bins), draw(0, BAND_BINS)
        real = real & ~((bin_index >= start) & (bin_index < start + width))[:, None]
    played = (frames - silence.sum(1))[:, None]
    start, width = silence[:, :1] + draw(0, 1) * played, draw(0, SPAN_SHARE) * played
    return mels * real * ~((times >= start) & (times < start + width))[:, :, None]


def warp(mels: Tensor, recorded: Tensor, frames: Tensor, silence: Tensor, source_bins: Tensor) -> Tensor:
    """Resample time and frequency linearly: float[R, F, bins] -> float[R, F, bins].

    Args:
        recorded: int64[R], frames of each recording.
        frames: int64[R], over how many it is stretched, the first to the first and the last to the last,
        silence: int64[R, 2], but for so many at the start and at the end, which repeat its own first and last.
        source_bins: float[R, bins], where on the frequency axis each bin is read.
    """
    _, longest, bins = mels.shape
    step = (recorded - 1) / (frames - silence.sum(1) - 1).clamp(min=1)
    times = ((torch.arange(longest, device=mels.device) - silence[:, :1]) * step[:, None]).clamp(min=0)
    times = torch.minimum(times, recorded[:, None] - 1)
    x, y = 2 * source_bins / (bins - 1) - 1, 2 * times / max(1, longest - 1) - 1  # grid_sample's axes: -1 to 1
    grid = torch.stack(torch.broadcast_tensors(x[:, None], y[:, :, None]), dim=3).to(mels.dtype)
    return F.grid_sample(mels[:, None], grid, padding_mode="border", align_corners=True)[:, 0]


def frequency_responses(recordings: int, bins: int, device: torch.device) -> Tensor:
    """What a microphone adds to each recording's log power: float[R, 1, bins], a sum of WAVES random cosines."""
    sizes, phases = torch.randn(recordings, WAVES, 1, device=device), torch.rand(recordings, WAVES, 1, device=device)
    turns = torch.arange(1, WAVES + 1, device=device)[:, None] * torch.arange(bins, device=device) / bins
    return COLOUR * (sizes * torch.cos(math.pi * (turns + 2 * phases))).sum(1, keepdim=True)


def standardize(values: Tensor, real: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 in each recording over what is real: float[R, F, bins], bool[R, F, bins]."""
    count = real.sum((1, 2), keepdim=True).clamp(min=1)
    centred = values - (values * real).sum((1, 2), keepdim=True) / count
    return centred / (((centred * real) ** 2).sum((1, 2), keepdim=True) / count).sqrt().clamp(min=1e-3)
