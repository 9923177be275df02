"""Starting weights for pre-training from scratch: quiet layers, attention to neighbours, guesses by frequency.

With random weights, the first millions of pieces bring no gain over guessing by frequency: the layers drown what the
embeddings say, no head attends to where a masked piece could be read off, and the frequencies must be learned too.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fusebert.model.trunk import Trunk

NEIGHBOUR_LAYERS = 2
"""Layers, from the first, whose heads start with attention to neighbours."""
SHARPNESS = 1.25
"""Factor on the queries and keys of these heads, so that a neighbour stands out among a hundred others."""
MOST_RARE = 1.2
"""Rareness of a piece at most, on a scale from the most frequent piece, 0, to the median one, 1."""
TYPE_SHARE = 0.3
"""Factor on the token-type embeddings: equal for all pieces of a text, they start quieter than what differs."""


@torch.no_grad()
def initialize(model: Any, counts: Tensor) -> None:
    """Set the starting weights of a model for pre-training; all of them are then trained.

    Args:
        model: a FusebertModel whose trunk has fresh weights.
        counts: int64[V], how often each piece occurs.
    """
    model.head.start_at_frequencies(counts)
    scale_down_outputs(model.trunk)
    turn_heads_to_neighbours(model.trunk)
    mark_rare_words(model.trunk, counts)


@torch.no_grad()
def scale_down_outputs(trunk: Trunk) -> None:
    """Scale each layer's two output projections by 1 / (layers - 1).

    Else each sum with the residual stream, normalised, halves the share of the embeddings (Xiong et al. 2020 on
    post-norm layers; Zhang et al. 2019 on scaling them down). A trunk of 2 layers does well without, one of 4 does not.
    """
    layers: Any = trunk.encoder.layer
    scale = 1 / max(1, len(layers) - 1)
    for layer in layers:
        layer.attention.output.dense.weight.mul_(scale)
        layer.output.dense.weight.mul_(scale)


@torch.no_grad()
def turn_heads_to_neighbours(trunk: Trunk) -> None:
    """Start positions as sinusoids, and heads of the first NEIGHBOUR_LAYERS layers with attention 1, 2, ... places off.

    Sinusoidal positions (Vaswani et al. 2017, 3.5), of frequencies spread evenly so that each differs from all others,
    turn into their neighbours by a rotation; a head whose query projection is its key projection, so rotated, attends
    to that neighbour. That queries and keys should start related, and positions as sinusoids, is the finding of
    Trockman & Kolter 2023.
    """
    positions = trunk.embeddings.position_embeddings.weight
    places, width = positions.shape
    frequencies = (torch.arange(width // 2) + 0.5) * (2 * math.pi / width)
    angles = torch.arange(places)[:, None] * frequencies
    scale = math.sqrt(2) * trunk.config.initializer_range
    positions[:, 0::2], positions[:, 1::2] = scale * angles.sin(), scale * angles.cos()
    heads = trunk.config.num_attention_heads
    layers: Any = trunk.encoder.layer
    for layer in layers[:NEIGHBOUR_LAYERS]:
        attention = layer.attention.self
        queries, keys = (part.weight.unflatten(0, (heads, -1)) for part in (attention.query, attention.key))
        keys.mul_(SHARPNESS)
        for head in range(heads):
            distance = (head // 2 + 1) * (-1) ** (head + 1)
            queries[head] = _rotated(keys[head], frequencies * distance)


@torch.no_grad()
def mark_rare_words(trunk: Trunk, counts: Tensor) -> None:
    """Let the word embeddings say how rare each piece is, along one direction that nothing else uses.

    They are the output weights too, so the hidden state can ask for rarer or commoner pieces by one number from the
    first step; with random embeddings that direction is learned piece by piece.

    Args:
        counts: int64[V], how often each piece occurs; one that does not occur counts as common.
    """
    embeddings = trunk.embeddings
    embeddings.token_type_embeddings.weight.mul_(TYPE_SHARE)
    words = embeddings.word_embeddings.weight
    direction = torch.nn.functional.normalize(torch.randn(words.shape[1]), dim=0)
    layers: Any = trunk.encoder.layer
    for weight in (words, embeddings.position_embeddings.weight):
        weight.sub_(torch.outer(weight @ direction, direction))
    for layer in layers:
        for dense in (layer.attention.output.dense, layer.output.dense):
            dense.weight.sub_(torch.outer(direction, direction @ dense.weight))
    occurs = counts > 0
    nats = -torch.log(counts[occurs] / counts.sum())
    rareness = torch.zeros(len(counts))
    rareness[occurs] = ((nats - nats.min()) / (nats.median() - nats.min()).clamp(min=1e-6)).clamp(max=MOST_RARE)
    words.add_(torch.outer(rareness - 0.5, direction))


def _rotated(weight: Tensor, angles: Tensor) -> Tensor:
    """The projection float[D / heads, D] that maps position i to what `weight` maps the rotated position to.

    Args:
        angles: float[D / 2], by which each pair of sine and cosine is rotated.
    """
    sines, cosines = weight[:, 0::2], weight[:, 1::2]
    out = torch.empty_like(weight)
    out[:, 0::2] = sines * angles.cos() - cosines * angles.sin()
    out[:, 1::2] = sines * angles.sin() + cosines * angles.cos()
    return out
