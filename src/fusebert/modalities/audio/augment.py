"""Recordings as other people might have made them, for training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

VOICES, PITCHES, PACES = (0.88, 1.14), (-3.0, 3.0), (0.9, 1.15)
"""Bins are stretched and moved, and frames are read slower or faster, within these."""
NOISES, NOISE_DEVIATION = (-4.0, -1.0), 0.3
"""Of a floor under the logarithm, in deviations of a recording's values; silence lies at about -1.7."""
BAND_BINS, SPAN_SHARE = 12, 0.2
"""Widest hidden band, and longest hidden span as a share of the recording."""


def perturb(mels: Tensor, frames: Tensor) -> Tensor:
    """Each recording with another voice, at another pace, in another room, and with two bands and one span hidden.

    Vocal tracts of other lengths stretch the axis of frequencies (Jaitly & Hinton 2013); noise adds to the power behind
    each value; hiding is SpecAugment's (Park et al. 2019).

    Args:
        mels: float[R, T, bins], logarithms of mean 0 and deviation 1, zero where a recording is over.
        frames: int64[R], of each recording; it has as many after, of which the last are zero where the pace is fast.
    """
    rows, longest, bins = mels.shape
    device = mels.device

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(rows, 1, device=device)

    places, times = torch.arange(bins, device=device), torch.arange(longest, device=device)
    source_bins, source_times = places * draw(*VOICES) + draw(*PITCHES), times * draw(*PACES)
    across = (2 * source_bins / (bins - 1) - 1)[:, None].expand(-1, longest, -1)
    along = (2 * source_times / max(1, longest - 1) - 1)[:, :, None].expand(-1, -1, bins)
    grid = torch.stack([across, along], dim=3).to(mels.dtype)
    heard = F.grid_sample(mels[:, None], grid, padding_mode="border", align_corners=True)[:, 0]
    heard = torch.logaddexp(heard, draw(*NOISES)[:, None] + NOISE_DEVIATION * torch.randn_like(heard))
    kept = (torch.maximum(source_times, times) < frames[:, None])[:, :, None].expand_as(heard)
    for _ in range(2):
        start, width = draw(0, bins), draw(0, BAND_BINS)
        kept = kept & ~((places >= start) & (places < start + width))[:, None]
    start, width = draw(0, 1) * frames[:, None], draw(0, SPAN_SHARE) * frames[:, None]
    return heard * kept * ~((times >= start) & (times < start + width))[:, :, None]
