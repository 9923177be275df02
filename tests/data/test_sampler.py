"""Batches hold every row once, about the same number of tokens, and are a function of seed and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusebert.data.collate import interleave
from fusebert.data.sampler import TokenBudgetSampler, cut, sorted_batches

LENGTHS = st.lists(st.integers(1, 600), min_size=1, max_size=300).map(np.array)


@given(LENGTHS, st.integers(1, 4096), st.integers(0, 99), st.integers(0, 5))
def test_every_row_comes_once_and_the_number_of_batches_is_fixed(
    lengths: np.ndarray, budget: int, seed: int, epoch: int
) -> None:
    sampler = TokenBudgetSampler(lengths, budget, seed)
    sampler.start_at(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert all(batches)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))


@given(LENGTHS, st.integers(1, 4096), st.integers(0, 10))
def test_skipping_gives_the_rest_of_the_same_epoch(lengths: np.ndarray, budget: int, skip: int) -> None:
    whole, rest = TokenBudgetSampler(lengths, budget, 1), TokenBudgetSampler(lengths, budget, 1)
    whole.start_at(2)
    rest.start_at(2, skip)
    assert list(whole)[skip:] == list(rest)


@given(LENGTHS, LENGTHS | st.just(np.array([], dtype=np.int64)), st.integers(1, 4096))
def test_a_later_epoch_may_have_another_number_of_rows(first: np.ndarray, later: np.ndarray, budget: int) -> None:
    sampler = TokenBudgetSampler(first, budget, 0)
    planned = len(sampler)
    sampler.start_at(1, lengths=later)
    batches = list(sampler)
    assert len(batches) == len(sampler) == min(planned, len(later))
    assert all(batches)
    assert sorted(row for batch in batches for row in batch) == list(range(len(later)))


def test_batches_are_even_and_epochs_differ(random: np.random.Generator) -> None:
    lengths = random.integers(1, 100, 5000)
    sampler = TokenBudgetSampler(lengths, 1000, seed=3)
    tokens = [lengths[batch].sum() for batch in sampler]
    assert max(abs(np.array(tokens) - np.mean(tokens))) <= 2 * lengths.max()
    first = list(sampler)
    sampler.start_at(1)
    assert list(sampler) != first


@given(LENGTHS, st.integers(1, 300))
def test_cut_gives_each_batch_a_row(lengths: np.ndarray, batches: int) -> None:
    batches = min(batches, len(lengths))
    places = cut(lengths, batches)
    assert (places[0], places[-1], len(places)) == (0, len(lengths), batches + 1)
    assert (np.diff(places) >= 1).all()


@given(LENGTHS, st.integers(1, 2048))
def test_sorted_batches_keep_the_budget(lengths: np.ndarray, budget: int) -> None:
    batches = sorted_batches(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(lengths[batch].sum() <= budget or len(batch) == 1 for batch in batches)


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4))
def test_interleaving_puts_each_rows_tokens_together_in_order(table: list[list[int]]) -> None:
    lengths = [np.ones(3, dtype=np.int64), *(np.array(row) for row in table)]
    names = [
        (row, source, token) for source, one in enumerate(lengths) for row in range(3) for token in range(one[row])
    ]
    order, totals = interleave(lengths)
    assert [names[place] for place in order] == sorted(names)
    assert totals.tolist() == [sum(int(one[row]) for one in lengths) for row in range(3)]


@pytest.mark.parametrize("budget", [1, 10**9])
def test_extreme_budgets_work(budget: int) -> None:
    sampler = TokenBudgetSampler(np.array([5, 6, 7]), budget, 0)
    assert len(list(sampler)) == (3 if budget == 1 else 1)
