"""Simple recommenders: the same neighbours as the whole product of all items gives, in blocks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from fusebert.tasks.recommendation import baselines
from fusebert.tasks.recommendation.baselines import NEIGHBOURS


def likeness(users: list[np.ndarray], items: int) -> tuple[np.ndarray, np.ndarray]:
    """How many had each item, and the cosines of all pairs but those of an item with itself."""
    had = np.zeros((len(users), items))
    for row, codes in zip(had, users, strict=True):
        row[codes - 1] = 1
    counts = had.sum(axis=0)
    scale = 1 / np.sqrt(np.maximum(counts, 1))
    whole = scale[:, None] * (had.T @ had) * scale
    np.fill_diagonal(whole, 0)
    return counts, whole


def test_neighbours_are_those_of_the_whole_product(
    random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = 300
    users = [np.unique(random.integers(1, items, size=size)) for size in random.integers(1, 250, size=60)]
    counts, whole = likeness(users, items)
    order = np.argsort(-whole, axis=1, kind="stable")[:, :NEIGHBOURS]
    expected = np.zeros_like(whole)
    np.put_along_axis(expected, order, np.take_along_axis(whole, order, axis=1), axis=1)
    for entries in (1, 5000, 2**22):
        monkeypatch.setattr(baselines, "ENTRIES_AT_ONCE", entries)
        assert np.array_equal(baselines._similarities(users, counts).toarray(), expected)


def test_someone_with_thousands_of_items_costs_no_product_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    items, entries = 1000, 2**14
    monkeypatch.setattr(baselines, "ENTRIES_AT_ONCE", entries)
    tracemalloc.start()
    similar = baselines._similarities([np.arange(1, items + 1)], np.ones(items))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert similar.nnz == items * NEIGHBOURS
    assert peak < items * items * 8
