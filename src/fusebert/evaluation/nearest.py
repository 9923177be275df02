"""The nearest of many vectors, exactly: all are compared, a block at a time."""

from __future__ import annotations

import numpy as np
import torch

SCORES_AT_ONCE, ROWS_AT_ONCE = 2**23, 2**14
DIGITS = 6
"""Of a similarity; what differs by less is equal, as a product of matrices rounds by their shape."""


def nearest(
    queries: np.ndarray, vectors: np.ndarray, places: np.ndarray | None, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The places of the vectors most similar to each query, and how similar they are, most similar first.

    Args:
        queries: float32[Q, D], of length 1.
        vectors: float32[N, D], of length 1.
        places: int64[M], of vectors that may be found; None for all.

    Returns:
        int64[Q, K] and float64[Q, K]; K is `top`, or as many as there are.
    """
    count = len(vectors) if places is None else len(places)
    at_once = min(ROWS_AT_ONCE, max(1, SCORES_AT_ONCE // max(1, len(queries))))
    asked = torch.from_numpy(queries)
    scores, found = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, count, at_once):
        block = slice(start, start + at_once)
        some = torch.from_numpy(vectors[block] if places is None else vectors[places[block]])
        best = (asked @ some.T).topk(min(top, len(some)))
        scores, found = torch.cat([scores, best.values], 1), torch.cat([found, best.indices + start], 1)
        if scores.shape[1] > top:
            kept = scores.topk(top)
            scores, found = kept.values, found.gather(1, kept.indices)
    similar, found_places = np.round(scores.numpy().astype(np.float64), DIGITS), found.numpy()
    order = np.lexsort((found_places, -similar))
    similar, found_places = (np.take_along_axis(array, order, axis=1) for array in (similar, found_places))
    return (found_places if places is None else places[found_places]), similar
