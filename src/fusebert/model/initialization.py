"""How a BERT that starts from nothing begins: with quiet layers, looking at its neighbours, guessing by frequency.

With random weights the first millions of pieces bring no gain over guessing by frequency: the layers drown what the
embeddings say, nothing tells a masked piece from where it could learn, and the frequencies themselves must be learned.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fusebert.model.trunk import Trunk

LAYERS = 2
SHARPNESS = 1.25
"""What the projections of these heads are multiplied with, so that a neighbour is heard among a hundred others."""
MOST_RARE = 1.2
"""On a scale from the most frequent piece, 0, to the middle one, 1."""
TYPE_SHARE = 0.3
"""Which of two texts a piece stands in is the same for all pieces of a text, and starts quieter than what differs."""


@torch.no_grad()
def initialize(model: Any, counts: Tensor) -> None:
    """Set the starting weights of a model for pre-training; all of them are learned on from there.

    Args:
        model: its trunk on fresh weights.
        counts: int64[V], how often each piece occurs.
    """
    model.head.start_at_frequencies(counts)
    scale_down_outputs(model.trunk)
    turn_heads_to_neighbours(model.trunk)
    mark_rare_words(model.trunk, counts)


@torch.no_grad()
def scale_down_outputs(trunk: Trunk) -> None:
    """Start each layer's two outputs smaller beside what they are added to, the deeper the trunk the more.

    Else each of them, normalised with what it is added to, halves what the embeddings say (Xiong et al. 2020 on why
    such layers need care; Zhang et al. 2019 on small starts). One of 2 layers does well without, one of 4 does not.
    """
    layers: Any = trunk.encoder.layer
    share = 1 / max(1, len(layers) - 1)
    for layer in layers:
        layer.attention.output.dense.weight.mul_(share)
        layer.output.dense.weight.mul_(share)


@torch.no_grad()
def turn_heads_to_neighbours(trunk: Trunk) -> None:
    """Start the positions as waves, and the heads of the first LAYERS layers turned to the pieces 1, 2, ... places off.

    Positions that are waves (Vaswani et al. 2017, 3.5), of frequencies
    spread evenly so that each is unlike all others, turn into their neighbours by a rotation; a head whose query is
    its key, so rotated, attends to that neighbour. That queries and keys should start related, and positions as
    waves, is the finding of Trockman & Kolter 2023.
    """
    positions = trunk.embeddings.position_embeddings.weight
    places, width = positions.shape
    frequencies = (torch.arange(width // 2) + 0.5) * (2 * math.pi / width)
    angles = torch.arange(places)[:, None] * frequencies
    scale = math.sqrt(2) * trunk.config.initializer_range
    positions[:, 0::2], positions[:, 1::2] = scale * angles.sin(), scale * angles.cos()
    heads = trunk.config.num_attention_heads
    layers: Any = trunk.encoder.layer
    for layer in layers[:LAYERS]:
        attention = layer.attention.self
        queries, keys = (part.weight.unflatten(0, (heads, -1)) for part in (attention.query, attention.key))
        keys.mul_(SHARPNESS)
        for head in range(heads):
            distance = (head // 2 + 1) * (-1) ** (head + 1)
            queries[head] = _rotated(keys[head], frequencies * distance)


@torch.no_grad()
def mark_rare_words(trunk: Trunk, counts: Tensor) -> None:
    """Start the words with how rare each is, along one direction that nothing else uses.

    The words' embeddings are read out with themselves, so a context that calls for a rare or for a common word can say
    so from the first step, by one number; random embeddings learn that direction word by word.

    Args:
        counts: int64[V], how often each piece occurs; those that do not occur count as common.
    """
    embeddings = trunk.embeddings
    embeddings.token_type_embeddings.weight.mul_(TYPE_SHARE)
    words = embeddings.word_embeddings.weight
    rare = torch.nn.functional.normalize(torch.randn(words.shape[1]), dim=0)
    layers: Any = trunk.encoder.layer
    for weight in (words, embeddings.position_embeddings.weight):
        weight.sub_(torch.outer(weight @ rare, rare))
    for layer in layers:
        for dense in (layer.attention.output.dense, layer.output.dense):
            dense.weight.sub_(torch.outer(rare, rare @ dense.weight))
    found = counts > 0
    bits = -torch.log(counts[found] / counts.sum())
    rareness = torch.zeros(len(counts))
    rareness[found] = ((bits - bits.min()) / (bits.median() - bits.min()).clamp(min=1e-6)).clamp(max=MOST_RARE)
    words.add_(torch.outer(rareness - 0.5, rare))


def _rotated(weight: Tensor, angles: Tensor) -> Tensor:
    """The projection float[*, D] that makes of position i what `weight` makes of the position turned by `angles`."""
    sines, cosines = weight[:, 0::2], weight[:, 1::2]
    out = torch.empty_like(weight)
    out[:, 0::2] = sines * angles.cos() - cosines * angles.sin()
    out[:, 1::2] = sines * angles.sin() + cosines * angles.cos()
    return out
