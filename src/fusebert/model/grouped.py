"""Attention of packed rows in bf16 on a CPU, through batched products of few different shapes.

torch's own CPU kernel has a gradient several times slower in bf16. Autograd over the same products would copy each of
their operands, and join the gradients of the groups at the end.
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

from fusebert.model.cpu import round_up

MULTIPLE = 16
"""Rows are padded to a multiple of so many tokens, and their number is rounded up: see `cpu.pad_rows`."""

WORTH_A_GROUP = 128
"""One more group costs a small model as much time as so many places."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring rows of about equal length, padded to rows * width places.

    Args:
        start, end: their packed tokens.
        rows, width: number and length of the padded rows.
        pad_index: int64[rows * width], the token that stands in each place, counted from `start`; None if all rows are
            full.
        is_padding: bool[rows, width], places behind a row's end; None if all rows are full.
        pack_index: int64[end - start], the place of each token; None if all rows are full.
    """

    start: int
    end: int
    rows: int
    width: int
    pad_index: Tensor | None = None
    is_padding: Tensor | None = None
    pack_index: Tensor | None = None

    def pad(self, tokens: Tensor) -> Tensor:
        """float[end - start, D] -> float[rows, width, D]; behind a row's end its last token is repeated."""
        padded = tokens if self.pad_index is None else F.embedding(self.pad_index, tokens)
        return padded.view(self.rows, self.width, -1)

    def pad_with_zeros(self, tokens: Tensor) -> Tensor:
        """float[end - start, D] -> float[rows, width, D]."""
        if self.pack_index is not None:
            zeros = tokens.new_zeros(self.rows * self.width, tokens.shape[1])
            tokens = zeros.index_copy_(0, self.pack_index, tokens)
        return tokens.view(self.rows, self.width, -1)

    def pack(self, padded: Tensor, out: Tensor) -> None:
        """Write float[rows, width, ...] into float[end - start, D]."""
        if self.pack_index is None:
            out.view(padded.shape).copy_(padded)
        else:
            torch.index_select(padded.reshape(self.rows * self.width, -1), 0, self.pack_index, out=out)


@lru_cache(maxsize=2)
def groups(lengths: tuple[int, ...]) -> tuple[Group, ...]:
    """The groups of one batch's rows; cached, because each layer asks for them."""
    made, start = [], 0
    for run in _runs(lengths):
        end, rows, width = start + sum(run), round_up(len(run), 1), _padded_length(max(run))
        group = Group(start, end, rows, width)
        if end - start < rows * width:
            real = torch.arange(width) < torch.tensor([*run, *[1] * (rows - len(run))])[:, None]
            pad_index = real.flatten().cumsum(0).clamp(max=end - start) - 1
            group = Group(start, end, rows, width, pad_index, ~real, real[: len(run)].flatten().nonzero()[:, 0])
        made.append(group)
        start = end
    return tuple(made)


def _runs(lengths: Sequence[int]) -> list[list[int]]:
    """Lengths of neighbouring rows: of equal padded length, or joined where that adds few places."""
    runs: list[list[int]] = []
    last = (0, 0, 0)
    for _, same in groupby(lengths, lambda length: (_padded_length(length), length == _padded_length(length))):
        run = list(same)
        this = len(run), max(run), sum(run)
        both = last[0] + this[0], max(last[1], this[1]), last[2] + this[2]
        if runs and _cost(*both) - _cost(*last) - _cost(*this) <= WORTH_A_GROUP:
            runs[-1] += run
            last = both
        else:
            runs.append(run)
            last = this
    return runs


def _padded_length(length: int) -> int:
    return -(-length // MULTIPLE) * MULTIPLE


def _cost(rows: int, longest: int, tokens: int) -> int:
    """What a run costs: its places, and the tokens that are copied where it is padded."""
    places = rows * _padded_length(longest)
    return places if tokens == places else places + tokens


class GroupedAttention(torch.autograd.Function):
    """Attention and its gradient, of qkv float[N, 3, heads, D / heads], lengths of rows, dropout, and whether it is
    causal -> float[N, D].

    Tokens behind the last row give zeros.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, lengths: tuple[int, ...], dropout: float, causal: bool) -> Tensor:
        heads, head_size = qkv.shape[2:]
        out = qkv.new_empty(len(qkv), heads * head_size)
        ctx.lengths, ctx.dropout, ctx.shape, saved = lengths, dropout, qkv.shape, []
        end = 0
        with torch.autocast("cpu", enabled=False):
            for group in groups(lengths):
                end = group.end
                padded = group.pad(qkv[group.start : end].flatten(1)).unflatten(2, qkv.shape[1:])
                padded = padded.permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous()
                query, key, value = padded  # float[rows * heads, width, D / heads] each
                probabilities = _attention_probabilities(query, key, heads, group.is_padding, causal)
                dropped = F.dropout(probabilities, dropout) if dropout else probabilities
                context = torch.bmm(dropped, value).unflatten(0, (-1, heads))
                group.pack(context.transpose(1, 2), out[group.start : end])
                saved += [padded, probabilities, dropped]
        out[end:] = 0
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_output,), (_, _, heads, head_size) = grad_outputs, ctx.shape
        grad_qkv, end = grad_output.new_empty(ctx.shape), 0
        saved = iter(ctx.saved_tensors)
        for group in groups(ctx.lengths):
            end, (query, key, value) = group.end, next(saved)
            probabilities, dropped = next(saved), next(saved)
            grad_context = group.pad_with_zeros(grad_output[group.start : end]).unflatten(2, (heads, head_size))
            grad_context = grad_context.transpose(1, 2).flatten(0, 1)
            grad_probabilities = torch.bmm(grad_context, value.mT)
            if dropped is not probabilities:  # one that is zero without dropout passes no gradient on anyway
                grad_probabilities = grad_probabilities.mul_(dropped != 0).mul_(1 / (1 - ctx.dropout))
            grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
            grad_query = _scaled_bmm(grad_scores, key, head_size**-0.5)
            grad_key = _scaled_bmm(grad_scores.mT, query, head_size**-0.5)
            grad_value = torch.bmm(dropped.mT, grad_context)
            packed, shape = grad_qkv[group.start : end], (group.rows, group.width, 3, heads, head_size)
            padded = packed.view(shape) if group.pack_index is None else packed.new_empty(shape)
            for number, grad in enumerate((grad_query, grad_key, grad_value)):
                padded[:, :, number] = grad.unflatten(0, (-1, heads)).transpose(1, 2)
            if group.pack_index is not None:
                group.pack(padded, packed.flatten(1))
        grad_qkv[end:] = 0
        return grad_qkv, None, None, None


def _attention_probabilities(query: Tensor, key: Tensor, heads: int, is_padding: Tensor | None, causal: bool) -> Tensor:
    """softmax(query @ key^T / sqrt(D / heads)): float[rows * heads, width, D / heads] twice, bool[rows, width] ->
    float[rows * heads, width, width]."""
    scores = _scaled_bmm(query, key.mT, query.shape[2] ** -0.5)
    if is_padding is not None:
        scores.unflatten(0, (-1, heads)).masked_fill_(is_padding[:, None, None], -torch.inf)
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
        scores.masked_fill_(later, -torch.inf)
    return torch.softmax(scores, dim=-1)


def _scaled_bmm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """`scale * left @ right`, of batches of matrices; within the product the scale costs nothing."""
    unread = left.new_empty(len(left), left.shape[1], right.shape[2])
    return torch.baddbmm(unread, left, right, beta=0, alpha=scale)
