"""Attention of packed bf16 rows on a processor, through products of few shapes.

torch's own CPU kernel is several times slower in its gradient in bf16. What autograd makes of the same products copies
each of their operands, and joins the gradients of the groups at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusebert.model.cpu import rounded

MULTIPLE = 16
"""Rows are filled up to a multiple of so many tokens, and their number is rounded up: see `cpu.fill`."""

WORTH_A_GROUP = 128
"""A group costs a small model as much time as so many places."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows of about equal length.

    Args:
        start, end: their tokens.
        rows, width: what they are filled up to.
        places: int64[rows * width], the token that stands in each place, counted from `start`; None if all are full.
        outside: bool[rows, width], places behind a row's end; None if all are full.
        kept: int64[end - start], the place of each token.
    """

    start: int
    end: int
    rows: int
    width: int
    places: Tensor | None = None
    outside: Tensor | None = None
    kept: Tensor | None = None

    def fill(self, tokens: Tensor) -> Tensor:
        """float[end - start, D] -> float[rows, width, D]; behind a row's end its last token is repeated."""
        filled = tokens if self.places is None else F.embedding(self.places, tokens)
        return filled.view(self.rows, self.width, -1)

    def fill_with_zeros(self, tokens: Tensor) -> Tensor:
        """float[end - start, D] -> float[rows, width, D]."""
        if self.kept is not None:
            tokens = tokens.new_zeros(self.rows * self.width, tokens.shape[1]).index_copy_(0, self.kept, tokens)
        return tokens.view(self.rows, self.width, -1)

    def keep(self, filled: Tensor, out: Tensor) -> None:
        """Write float[rows, width, ...] into float[end - start, D]."""
        if self.kept is None:
            out.view(filled.shape).copy_(filled)
        else:
            torch.index_select(filled.reshape(self.rows * self.width, -1), 0, self.kept, out=out)


@lru_cache(maxsize=2)
def groups(lengths: tuple[int, ...]) -> tuple[Group, ...]:
    """Of the rows of one batch; asked for by each layer."""
    found, start = [], 0
    for real in _runs(lengths):
        end, rows, width = start + sum(real), rounded(len(real), 1), _filled(max(real))
        group = Group(start, end, rows, width)
        if end - start < rows * width:
            inside = torch.arange(width) < torch.tensor([*real, *[1] * (rows - len(real))])[:, None]
            places = inside.flatten().cumsum(0).clamp(max=end - start) - 1
            group = Group(start, end, rows, width, places, ~inside, inside[: len(real)].flatten().nonzero()[:, 0])
        found.append(group)
        start = end
    return tuple(found)


def _runs(lengths: Sequence[int]) -> list[list[int]]:
    """Rows of equal filled length, with their neighbours where that adds few places."""
    runs: list[list[int]] = []
    last = (0, 0, 0)
    for _, run in groupby(lengths, lambda length: (_filled(length), length == _filled(length))):
        real = list(run)
        its = len(real), max(real), sum(real)
        both = last[0] + its[0], max(last[1], its[1]), last[2] + its[2]
        if runs and _places(*both) - _places(*last) - _places(*its) <= WORTH_A_GROUP:
            runs[-1] += real
            last = both
        else:
            runs.append(real)
            last = its
    return runs


def _filled(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _places(rows: int, longest: int, tokens: int) -> int:
    """What a run costs: its places, and those that are copied to be filled up."""
    places = rows * _filled(longest)
    return places if tokens == places else places + tokens


class GroupedAttention(torch.autograd.Function):
    """Packed projections float[N, 3, heads, D / heads], the rows' lengths, the share of weights dropped -> float[N, D].

    Tokens behind the last row give zeros.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, lengths: tuple[int, ...], dropout: float) -> Tensor:
        heads, size = qkv.shape[2:]
        out = qkv.new_empty(len(qkv), heads * size)
        ctx.lengths, ctx.dropout, ctx.shape, saved = lengths, dropout, qkv.shape, []
        end = 0
        with torch.autocast("cpu", enabled=False):
            for group in groups(lengths):
                end = group.end
                filled = group.fill(qkv[group.start : end].flatten(1)).unflatten(2, qkv.shape[1:])
                parts = filled.permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous()
                query, key, value = parts
                weights = _scaled(query, key.mT, size**-0.5)
                if group.outside is not None:
                    weights.unflatten(0, (-1, heads)).masked_fill_(group.outside[:, None, None], -torch.inf)
                weights = torch.softmax(weights, dim=-1)
                kept = F.dropout(weights, dropout) if dropout else weights
                found = torch.bmm(kept, value).unflatten(0, (-1, heads))
                group.keep(found.transpose(1, 2), out[group.start : end])
                saved += [parts, weights, kept]
        out[end:] = 0
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (_, _, heads, size) = gradients, ctx.shape
        found, end = gradient.new_empty(ctx.shape), 0
        saved = iter(ctx.saved_tensors)
        for group in groups(ctx.lengths):
            end, (query, key, value) = group.end, next(saved)
            weights, kept = next(saved), next(saved)
            given = group.fill_with_zeros(gradient[group.start : end]).unflatten(2, (heads, size))
            given = given.transpose(1, 2).flatten(0, 1)
            for_weights = torch.bmm(given, value.mT)
            if kept is not weights:  # where a weight is zero of itself, no gradient passes the softmax either
                for_weights = for_weights.mul_(kept != 0).mul_(1 / (1 - ctx.dropout))
            for_scores = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
            for_query, for_key = (_scaled(for_scores, key, size**-0.5), _scaled(for_scores.mT, query, size**-0.5))
            here, shape = found[group.start : end], (group.rows, group.width, 3, heads, size)
            apart = here.view(shape) if group.kept is None else here.new_empty(shape)
            for number, part in enumerate((for_query, for_key, torch.bmm(kept.mT, given))):
                apart[:, :, number] = part.unflatten(0, (-1, heads)).transpose(1, 2)
            if group.kept is not None:
                group.keep(apart, here.flatten(1))
        found[end:] = 0
        return found, None, None


def _scaled(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`scale * left @ right`, of batches of matrices; the scale costs nothing within the product."""
    nothing = left.new_empty(len(left), left.shape[1], right.shape[2])
    return torch.baddbmm(nothing, left, right, beta=0, alpha=scale)
