"""Which of many fingerprints is nearly one of others: all pairs, in blocks, as one product each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

AT_ONCE = 1024


def most_similar(first: Sequence[np.ndarray], others: Sequence[np.ndarray], least: float) -> list[int | None]:
    """For each of the others, the number of the most similar of the first; None where none is similar enough.

    Args:
        first, others: float[n] each, of length one.
        least: cosine that is enough.
    """
    found: list[int | None] = []
    for start in range(0, len(others), AT_ONCE):
        some = np.stack(others[start : start + AT_ONCE]).astype(np.float32)
        best, score = np.zeros(len(some), dtype=np.int64), np.full(len(some), -1.0, dtype=np.float32)
        for begin in range(0, len(first), AT_ONCE):
            cosines = some @ np.stack(first[begin : begin + AT_ONCE]).astype(np.float32).T
            better = cosines.max(axis=1) > score
            best = np.where(better, begin + cosines.argmax(axis=1), best)
            score = np.maximum(score, cosines.max(axis=1))
        found += [int(n) if s >= least else None for n, s in zip(best, score, strict=True)]
    return found
