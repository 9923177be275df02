"""Attention of bf16 rows on a processor: which rows are taken together, and the gradient through dropped weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fusebert.model.cpu import dropout_scales
from fusebert.model.grouped import GroupedAttention, GroupedReads, groups


@given(st.lists(st.integers(1, 70), min_size=1, max_size=40), st.booleans())
def test_groups_hold_each_token_once_in_its_row(lengths: list[int], is_sorted: bool) -> None:
    lengths = sorted(lengths, reverse=True) if is_sorted else lengths
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    tokens, end = torch.stack([rows, torch.arange(len(rows))], dim=1).float(), 0
    for group in groups(tuple(lengths)):
        assert group.start == end
        end, given_tokens = group.end, tokens[group.start : group.end]
        padded, out = group.pad(given_tokens), torch.empty_like(given_tokens)
        group.pack(padded, out)
        assert torch.equal(out, given_tokens)
        real = torch.ones(group.rows, group.width, dtype=torch.bool) if group.is_padding is None else ~group.is_padding
        assert int(real[: len(given_tokens[:, 0].unique())].sum()) == len(given_tokens)
        for row, mask in zip(padded[..., 0], real, strict=True):
            assert len(row[mask].unique()) == 1
        assert group.pad_with_zeros(given_tokens).sum() == given_tokens.sum()
    assert end == len(tokens)


def test_full_rows_are_not_copied_for_the_sake_of_a_few_others() -> None:
    full, others = groups((*[128] * 26, 115, 92, 86, 83, 54, 51, 39))
    assert (full.rows, full.width, full.pad_index) == (26, 128, None)
    assert (others.rows, others.width) == (7, 128)


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 4e-2), (torch.float32, 1e-5)], ids=str)
def test_the_gradient_passes_the_weights_that_were_kept(dtype: torch.dtype, near: float) -> None:
    torch.manual_seed(0)
    rows, width, heads, size, dropout = 3, 32, 2, 16, 0.3
    qkv = torch.randn(rows * width, 3, heads, size, dtype=dtype, requires_grad=True)
    wanted = qkv.detach().float().requires_grad_()
    torch.manual_seed(1)
    found = GroupedAttention.apply(qkv, (width,) * rows, dropout, False)
    torch.manual_seed(1)
    kept = dropout_scales(torch.ones(rows * heads, width, width, dtype=dtype), dropout).float()
    assert float((kept == 0).float().mean()) == pytest.approx(dropout, abs=0.02)
    query, key, value = wanted.unflatten(0, (rows, width)).permute(2, 0, 3, 1, 4).flatten(1, 2)
    weights = torch.softmax(query @ key.transpose(1, 2) * size**-0.5, dim=-1) * kept
    expected = (weights @ value).unflatten(0, (rows, heads)).transpose(1, 2).reshape(rows * width, -1)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=near)
    direction = torch.randn_like(expected)
    (found.float() * direction).sum().backward()
    (expected * direction).sum().backward()
    assert (qkv.grad.float() - wanted.grad).norm() < 2e-2 * wanted.grad.norm()  # type: ignore[union-attr]


def test_tokens_that_are_read_drop_weights_of_their_own() -> None:
    torch.manual_seed(0)
    lengths, counts, heads, size, dropout = (40, 40), (16, 16), 2, 16, 0.3
    query, key_value = torch.randn(32, heads, size, requires_grad=True), torch.randn(80, 2, heads, size)
    torch.manual_seed(1)
    found = GroupedReads.apply(query, key_value, lengths, counts, dropout)
    torch.manual_seed(1)
    kept = dropout_scales(torch.ones(4, 16, 48), dropout)[:, :, :40]  # rows are padded to a multiple of 16
    asking, key, value = (
        tokens.unflatten(0, (2, -1)).transpose(1, 2).flatten(0, 1) for tokens in (query, *key_value.unbind(1))
    )
    weights = torch.softmax(asking @ key.transpose(1, 2) * size**-0.5, dim=-1) * kept
    expected = (weights @ value).unflatten(0, (2, heads)).transpose(1, 2).reshape(32, -1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    direction = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad((one * direction).sum(), query)[0] for one in (found, expected)))
