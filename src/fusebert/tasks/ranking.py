"""Scores float[B] of questions with one right answer each, from its rank among many, from 1; a metric is their mean."""

from __future__ import annotations

import numpy as np


def recall_at(most: int, ranks: np.ndarray) -> np.ndarray:
    """Whether the right answer is among the first `most`."""
    return np.asarray(ranks <= most, dtype=np.float64)


def ndcg_at(most: int, ranks: np.ndarray) -> np.ndarray:
    """Normalised discounted cumulative gain (Järvelin & Kekäläinen 2002)."""
    return np.where(ranks <= most, 1 / np.log2(1 + ranks), 0.0)


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """1 / rank (Voorhees 1999)."""
    return np.asarray(1 / ranks)
