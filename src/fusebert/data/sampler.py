"""Batches of about the same number of tokens, of rows of about the same length; a pure function of seed and epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BATCHES_SORTED_TOGETHER = 32
"""Rows are sorted by length within this many batches: enough for groups of equal length, few enough to stay random."""


class TokenBudgetSampler:
    """Batch sampler: lists of row numbers, each sorted by length, longest first.

    Packed rows need no padding, so a batch may be cut anywhere: each epoch has the same number of batches, and they
    hold the same number of tokens, give or take one row. Only an epoch of fewer rows has fewer, a row each.

    Args:
        lengths: int[rows], tokens of each row.
        tokens_per_batch: the mean aimed at; a batch exceeds it by less than the longest row.
        seed: with the epoch, decides the order.
    """

    def __init__(self, lengths: np.ndarray, tokens_per_batch: int, seed: int) -> None:
        self.lengths, self.seed = np.asarray(lengths, dtype=np.int64), seed
        self.batches = max(1, min(len(lengths), -(-int(self.lengths.sum()) // tokens_per_batch)))
        self.epoch, self.skip = 0, 0

    def __len__(self) -> int:
        return min(self.batches, len(self.lengths))

    def start_at(self, epoch: int, skip: int = 0, lengths: np.ndarray | None = None) -> None:
        """The next iteration gives `epoch`, without its first `skip` batches.

        Args:
            lengths: of that epoch's rows, where each epoch has rows of its own; the number of batches stays if it can.
        """
        self.epoch, self.skip = epoch, skip
        if lengths is not None:
            self.lengths = np.asarray(lengths, dtype=np.int64)

    def __iter__(self) -> Iterator[list[int]]:
        if not len(self):  # so small a share of a corpus that it holds no row
            return
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        chunks = np.array_split(order, -(-len(self) // BATCHES_SORTED_TOGETHER))
        order = np.concatenate([chunk[np.argsort(-self.lengths[chunk], kind="stable")] for chunk in chunks])
        batches = cut(self.lengths[order], len(self))
        for number in random.permutation(len(self))[self.skip :]:
            yield order[batches[number] : batches[number + 1]].tolist()


def cut(lengths: np.ndarray, batches: int) -> np.ndarray:
    """Places that cut rows into `batches` runs of about equal tokens, each with a row at least: int64[batches + 1].

    Args:
        batches: at most one a row.
    """
    ends = lengths.cumsum()
    wanted = ends[-1] * np.arange(1, batches) / batches
    places: np.ndarray = np.concatenate([[0], np.searchsorted(ends, wanted, side="left") + 1, [len(lengths)]])
    steps = np.arange(batches + 1)
    places = np.maximum.accumulate(places - steps) + steps
    return np.asarray(np.minimum(places, len(lengths) - batches + steps))


def sorted_batches(lengths: np.ndarray, tokens_per_batch: int) -> list[list[int]]:
    """Batches for evaluation: all rows by length, each batch within the budget (or a single longer row)."""
    batches: list[list[int]] = []
    tokens = 0
    for row in np.argsort(-np.asarray(lengths), kind="stable").tolist():
        if batches and tokens + lengths[row] <= tokens_per_batch:
            batches[-1].append(row)
        else:
            batches.append([row])
            tokens = 0
        tokens += int(lengths[row])
    return batches
