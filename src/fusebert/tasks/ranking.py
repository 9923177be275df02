"""Scores of the rank, from 1, of the one right answer among many; means over float[B] ranks."""

from __future__ import annotations

import numpy as np


def recall_at(most: int, ranks: np.ndarray) -> float:
    """Share of the questions whose right answer is among the first `most`."""
    return float((ranks <= most).mean())


def ndcg_at(most: int, ranks: np.ndarray) -> float:
    """Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002)."""
    return float(np.where(ranks <= most, 1 / np.log2(1 + ranks), 0.0).mean())


def mean_reciprocal_rank(ranks: np.ndarray) -> float:
    """Mean of 1 / rank (Voorhees 1999)."""
    return float((1 / ranks).mean())
