"""A trunk that starts from nothing for pre-training sees its neighbours from the first step."""

from __future__ import annotations

import pytest
import torch

from fusebert.model.start import LAYERS, look_at_neighbours
from fusebert.model.trunk import Trunk, TrunkConfig


@pytest.mark.parametrize("size", ["tiny", "mini", "base"])
def test_heads_look_at_their_neighbours(size: str) -> None:
    torch.manual_seed(0)
    config = TrunkConfig.of_size(size, 500).model_copy(update={"num_hidden_layers": LAYERS, "hidden_dropout_prob": 0.0})
    trunk = Trunk(config)
    for weight in trunk.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=config.initializer_range)
    look_at_neighbours(trunk)
    ids, places = torch.randint(500, (100,)), torch.arange(100)
    hidden = trunk.embeddings(ids, torch.zeros(100, dtype=torch.long), places)
    attention = trunk.encoder.layer[0].attention.self
    heads = config.num_attention_heads
    query, key = (part(hidden).unflatten(1, (heads, 64)).transpose(0, 1) for part in (attention.query, attention.key))
    weights = (query @ key.transpose(1, 2) / 8).softmax(dim=-1)
    for head, distance in zip(range(heads), (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6), strict=False):
        looked_at = weights[head, 10:90].argmax(dim=-1)
        share = (looked_at == torch.arange(10, 90) + distance).float().mean()
        assert share > 0.5, (head, distance, float(share))
