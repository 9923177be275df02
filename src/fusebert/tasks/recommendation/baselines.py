"""What any recommender has to beat: what is popular, what goes with the last item, what goes with all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fusebert.tasks.recommendation.config import HISTORY, NEXT
from fusebert.tasks.recommendation.ranking import NEVER, ranking_metrics
from fusebert.types import Sample

NEIGHBOURS = 100
"""Most similar items that an item knows."""
RECENT, RECENT_DECAY = 10, 0.8
"""Items of a history that `recent_knn` looks at, and what each weighs beside the one after it."""
ENTRIES_AT_ONCE = 2**22
"""Of a matrix with a column for each item, 8 bytes each: a whole one would not fit into memory."""

Scorer = Callable[[list[np.ndarray]], np.ndarray]


def baselines(
    task: Any, histories: Sequence[Sample], asked: Mapping[str, Sequence[Sample]], processor: Any
) -> dict[str, dict[str, Any]]:
    """Metrics of `popularity`, `last_item`, `item_knn` and `recent_knn` by split, on the questions that the model is
    asked, by its rules.

    `item_knn` takes all that someone had as equal, `recent_knn` the newest few, the newest as the most telling.

    Items are alike by the cosine of who had them in the training part (Sarwar et al. 2001); equal scores are told apart
    by popularity, and then stand in a random order: rare items are often as alike as others.

    Args:
        task: Recommendation, which knows the items.
        histories: of the training part, one a user.
        asked: by split, rows with a history and the item that came next.
        processor: of the events; knows the items' codes.
    """
    users = [np.unique(_codes(sample, processor)) for sample in histories]
    counts = np.bincount(np.concatenate(users), minlength=1 + len(task.items))[1:].astype(np.float64)
    similar = _similarities(users, counts)
    scorers: dict[str, Scorer] = {
        "popularity": lambda codes: np.zeros((len(codes), len(counts))),
        "last_item": lambda codes: (_chosen([one[-1:] for one in codes], len(counts)) @ similar).toarray(),
        "item_knn": lambda codes: (_chosen(codes, len(counts)) @ similar).toarray(),
        "recent_knn": lambda codes: (_recent(codes, len(counts)) @ similar).toarray(),
    }
    return {split: _metrics(task, scorers, counts, samples, processor) for split, samples in asked.items()}


def _metrics(
    task: Any, scorers: Mapping[str, Scorer], counts: np.ndarray, asked: Sequence[Sample], processor: Any
) -> dict[str, Any]:
    """Of each scorer, on the questions of one split."""
    random = np.random.default_rng(0)
    ranks: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    right = np.array([int(task.target(sample.values[NEXT])) for sample in asked])
    tie = 1e-9 * counts / max(1.0, counts.max())
    questions = max(1, ENTRIES_AT_ONCE // len(counts))
    for start in range(0, len(asked), questions):
        codes = [_codes(sample, processor) for sample in asked[start : start + questions]]
        wanted = right[start : start + questions]
        for name, scorer in scorers.items():
            scores = scorer(codes) + tie
            if not task.config.repeats:
                for row, seen in zip(scores, codes, strict=True):
                    row[seen - 1] = -np.inf
            ranks[name].append(_ranks(scores, wanted, random))
    trained = (right > 0) & (right <= task.trained)
    return {name: ranking_metrics(np.concatenate(found), trained) for name, found in ranks.items()}


def _codes(sample: Sample, processor: Any) -> np.ndarray:
    """int64[E] of the known items of a history, the newest last."""
    codes = np.array([processor.code(event.item) for event in sample.values[HISTORY]], dtype=np.int64)
    return codes[codes > 0]


def _chosen(codes: Sequence[np.ndarray], items: int) -> Any:
    """Sparse float[B, items], 1 for what a history has."""
    from scipy.sparse import csr_array

    columns = [np.unique(one) - 1 for one in codes]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in columns])])
    flat = np.concatenate(columns)
    return csr_array((np.ones(len(flat)), flat, starts), shape=(len(columns), items))


def _recent(codes: Sequence[np.ndarray], items: int) -> Any:
    """Sparse float[B, items], for the RECENT newest of a history, each RECENT_DECAY times the weight of the next."""
    from scipy.sparse import coo_array

    newest = [one[: -RECENT - 1 : -1] for one in codes]
    rows = np.repeat(np.arange(len(newest)), [len(one) for one in newest])
    ages = np.concatenate([np.arange(len(one)) for one in newest])
    found = coo_array((RECENT_DECAY**ages, (rows, np.concatenate(newest) - 1)), shape=(len(codes), items))
    return found.tocsr()


def _similarities(users: Sequence[np.ndarray], counts: np.ndarray) -> Any:
    """Sparse float[items, items]: cosines, of each item with its NEIGHBOURS."""
    from scipy.sparse import csr_array, diags_array

    had = _chosen(users, len(counts))
    by_item = had.T.tocsr()
    scale = 1 / np.sqrt(np.maximum(counts, 1))
    values, columns = [], []
    for block in _blocks(np.minimum(by_item @ had.sum(axis=1), len(counts))):
        found = csr_array(diags_array(scale[block]) @ (by_item[block] @ had) @ diags_array(scale))
        found.sort_indices()  # of equal neighbours the first are kept
        for row, item in enumerate(range(block.start, block.stop)):
            span = slice(found.indptr[row], found.indptr[row + 1])
            others = np.flatnonzero(found.indices[span] != item)
            best = others[np.argsort(-found.data[span][others], kind="stable")[:NEIGHBOURS]]
            values.append(found.data[span][best])
            columns.append(found.indices[span][best])
    starts = np.concatenate([[0], np.cumsum([len(one) for one in values])])
    return csr_array((np.concatenate(values), np.concatenate(columns), starts), shape=(len(counts), len(counts)))


def _blocks(entries: np.ndarray) -> Iterator[slice]:
    """Rows that lie together and have about ENTRIES_AT_ONCE entries.

    Args:
        entries: float[rows], at most so many has each.
    """
    changes = np.flatnonzero(np.diff(np.cumsum(entries) // ENTRIES_AT_ONCE)) + 1
    for start, stop in zip([0, *changes], [*changes, len(entries)], strict=True):
        yield slice(int(start), int(stop))


def _ranks(scores: np.ndarray, right: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """float[B] from 1, a random one among equals; what cannot be an answer is never found."""
    own = np.take_along_axis(scores, np.maximum(right - 1, 0)[:, None], axis=1)
    ranks = random.integers((scores > own).sum(axis=1), (scores >= own).sum(axis=1)) + 1.0
    return np.asarray(np.where((right > 0) & np.isfinite(own[:, 0]), ranks, NEVER))
