"""Weights that start at zero and are not decayed."""

from __future__ import annotations

from torch import nn


class ZeroEmbedding(nn.Embedding):
    """A bias, a gate, a scale, or vectors of which rare ones should stay near zero.

    An embedding, because transformers leaves a bare `nn.Parameter` uninitialised.
    """
