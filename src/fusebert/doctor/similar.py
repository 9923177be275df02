"""Which of many fingerprints is nearly one of others: all pairs, in blocks, as one product each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

AT_ONCE = 1024
Agrees = Callable[[int, np.ndarray], np.ndarray]


def most_similar(
    first: Sequence[np.ndarray], others: Sequence[np.ndarray], least: float, agrees: Agrees | None = None
) -> list[int | None]:
    """For each of the others, the number of the most similar of the first; None where none is similar enough.

    Args:
        first, others: float[n] each, of length one.
        least: cosine that is enough.
        agrees: which of some of the first, by number, may be the same as one of the others, by number: bool[N].
    """
    found: list[int | None] = []
    for start in range(0, len(others), AT_ONCE):
        some = np.stack(others[start : start + AT_ONCE]).astype(np.float32)
        best, score = np.full(len(some), -1), np.full(len(some), least, dtype=np.float32)
        for begin in range(0, len(first), AT_ONCE):
            cosines = some @ np.stack(first[begin : begin + AT_ONCE]).astype(np.float32).T
            for row in np.flatnonzero(cosines.max(axis=1) >= score):
                similar = np.flatnonzero(cosines[row] >= score[row])
                if agrees is not None:
                    similar = similar[agrees(start + int(row), begin + similar)]
                if len(similar):
                    nearest = similar[cosines[row, similar].argmax()]
                    if best[row] < 0 or cosines[row, nearest] > score[row]:
                        best[row], score[row] = begin + nearest, cosines[row, nearest]
        found += [int(n) if n >= 0 else None for n in best]
    return found
