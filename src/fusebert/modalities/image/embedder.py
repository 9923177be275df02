"""Pictures -> tokens: an encoder, a projection to the trunk's width, and the place of each patch and column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusebert.modalities.image.encoders import build_encoder
from fusebert.modalities.image.encoders import prepare as prepare
from fusebert.modalities.image.processor import Config
from fusebert.model.layer_norm import LayerNorm

MAX_SHIFT = 0.08
"""Largest move in training, as a share of the picture's side."""


class Embedder(nn.Module):
    """Each different picture of a batch goes through the encoder once, however many rows show it.

    Args:
        columns: number of picture columns; each has a learned place.
        trunk: the trunk's configuration.
    """

    LEARNING_SETTINGS = ("augment", "frozen", "weights")
    """Settings that say how it learns and where it begins, not what its weights mean."""

    def __init__(self, config: Config, columns: int, trunk: Any) -> None:
        super().__init__()
        self.config = config
        self.encoder = build_encoder(config, trunk.hidden_size)
        if config.frozen:
            self.encoder.requires_grad_(False)
        self.projection = nn.Linear(self.encoder.width, trunk.hidden_size)
        self.patch_positions = nn.Embedding(config.tokens, trunk.hidden_size)
        self.column_places = nn.Embedding(columns, trunk.hidden_size)
        self.LayerNorm = LayerNorm(trunk.hidden_size, eps=trunk.layer_norm_eps)
        self.dropout = nn.Dropout(trunk.hidden_dropout_prob)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1))

    @property
    def published(self) -> nn.Module | None:
        """What begins with published weights, and so learns as slowly as a pretrained trunk."""
        return self.encoder if self.config.backbone or self.config.weights else None

    def load_pretrained(self) -> None:
        """Read published weights into the encoder, where it has any."""
        if hasattr(self.encoder, "load_pretrained"):
            self.encoder.load_pretrained()

    def forward(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """uint8[U, 3, H, W] different pictures, int[K] uses -> float[K * P, D], packed."""
        pixels = (features["pixel_values"].to(self.mean.dtype) / 255 - self.mean) / self.std
        if self.training and self.config.augment:
            pixels = move_and_zoom(pixels)
        if self.config.frozen:
            self.encoder.eval()
            with torch.no_grad():
                encoded = self.encoder(pixels)
        else:
            encoded = self.encoder(pixels)
        tokens = self.projection(encoded) + self.patch_positions.weight
        tokens = F.embedding(features["picture"], tokens.flatten(1)).view(-1, *tokens.shape[1:])
        tokens = tokens + self.column_places(features["place"]).unsqueeze(1)
        return self.dropout(self.LayerNorm(tokens)).flatten(0, 1)


def move_and_zoom(pixels: Tensor) -> Tensor:
    """Shift each picture of float[U, 3, H, W] by up to MAX_SHIFT and zoom by up to 10 %.

    Nothing is mirrored: a question may ask what is on the left.
    """
    count = len(pixels)
    zoom = 1 + (torch.rand(count, device=pixels.device) - 0.5) * 0.2
    shift = (torch.rand(count, 2, device=pixels.device) - 0.5) * 4 * MAX_SHIFT
    zero = torch.zeros_like(zoom)
    rows = torch.stack([zoom, zero, shift[:, 0], zero, zoom, shift[:, 1]], dim=1)
    grid = F.affine_grid(rows.view(count, 2, 3), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid.to(pixels.dtype), padding_mode="border", align_corners=False)
