"""Weights that start at zero and are not decayed."""

from __future__ import annotations

from torch import nn


class ZeroEmbedding(nn.Embedding):
    """For a bias, a gate, a scale, or vectors of which rarely used ones should stay near zero.

    An `nn.Embedding`, because transformers leaves a bare `nn.Parameter` uninitialised.
    """
