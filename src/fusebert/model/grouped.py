"""Attention of packed rows on a CPU, through batched products of few different shapes.

torch's own CPU kernel has a gradient several times slower in bf16, and none for dropout. Autograd over the same
products would copy each of their operands, and join the gradients of the groups at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusebert.model.cpu import dropout_scales, round_up

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
        made.append(_group(start, run))
        start = made[-1].end
    return tuple(made)


@lru_cache(maxsize=2)
def groups_of_reads(lengths: tuple[int, ...], counts: tuple[int, ...]) -> tuple[Group, ...]:
    """The tokens that are read of the rows of each group; `counts` says how many each row has, one at least."""
    made, start, left = [], 0, iter(counts)
    for run in _runs(lengths):
        made.append(_group(start, list(islice(left, len(run)))))
        start = made[-1].end
    return tuple(made)


def _group(start: int, run: list[int]) -> Group:
    end, rows, width = start + sum(run), round_up(len(run), 1), _padded_length(max(run))
    if end - start == rows * width:
        return Group(start, end, rows, width)
    real = torch.arange(width) < torch.tensor([*run, *[1] * (rows - len(run))])[:, None]
    pad_index = real.flatten().cumsum(0).clamp(max=end - start) - 1
    return Group(start, end, rows, width, pad_index, ~real, real[: len(run)].flatten().nonzero()[:, 0])


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
        out = qkv.new_empty(len(qkv), qkv.shape[2] * qkv.shape[3])
        ctx.lengths, ctx.shape, saved = lengths, qkv.shape, []
        end = 0
        with torch.autocast("cpu", enabled=False):
            for group in groups(lengths):
                end = group.end
                padded = _pad_heads(group, qkv[group.start : end])
                context, weights = _attend(padded[0], padded[1:], group, qkv.shape[2], dropout, causal)
                group.pack(context, out[group.start : end])
                saved += [padded, *weights]
        out[end:] = 0
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        (grad_output,), saved = grad_outputs, iter(ctx.saved_tensors)
        grad_qkv, end = grad_output.new_empty(ctx.shape), 0
        for group in groups(ctx.lengths):
            end, padded, weights = group.end, next(saved), (next(saved), next(saved))
            grad_context = _pad_gradient(group, grad_output[group.start : end], ctx.shape[2])
            _pack_heads(group, _gradients(grad_context, padded[0], padded[1:], *weights), grad_qkv[group.start : end])
        grad_qkv[end:] = 0
        return grad_qkv, None, None, None


class GroupedReads(torch.autograd.Function):
    """The same for the tokens that are read, of query float[M, heads, D / heads], key and value float[N, 2, heads,
    D / heads], lengths of rows, how many tokens of each are read, and dropout -> float[M, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key_value: Tensor,
        lengths: tuple[int, ...],
        counts: tuple[int, ...],
        dropout: float,
    ) -> Tensor:
        out = query.new_empty(len(query), query.shape[1] * query.shape[2])
        ctx.rows, ctx.shapes, saved = (lengths, counts), (query.shape, key_value.shape), []
        end = 0
        with torch.autocast("cpu", enabled=False):
            for group, reads in zip(groups(lengths), groups_of_reads(lengths, counts), strict=True):
                end = reads.end
                asking = _pad_heads(reads, query[reads.start : end, None])
                padded = _pad_heads(group, key_value[group.start : group.end])
                context, weights = _attend(asking[0], padded, group, query.shape[1], dropout)
                reads.pack(context, out[reads.start : end])
                saved += [asking, padded, *weights]
        out[end:] = 0
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (grad_output,), saved = grad_outputs, iter(ctx.saved_tensors)
        grad_query, grad_key_value = (grad_output.new_empty(shape) for shape in ctx.shapes)
        end = read_end = 0
        for group, reads in zip(groups(ctx.rows[0]), groups_of_reads(*ctx.rows), strict=True):
            end, read_end, asking, padded = group.end, reads.end, next(saved), next(saved)
            grad_context = _pad_gradient(reads, grad_output[reads.start : read_end], grad_query.shape[1])
            grads = _gradients(grad_context, asking[0], padded, next(saved), next(saved))
            _pack_heads(reads, grads[:1], grad_query[reads.start : read_end, None])
            _pack_heads(group, grads[1:], grad_key_value[group.start : end])
        grad_query[read_end:] = 0
        grad_key_value[end:] = 0
        return grad_query, grad_key_value, None, None, None


def _pad_heads(group: Group, tokens: Tensor) -> Tensor:
    """float[end - start, K, heads, D / heads] -> float[K, rows * heads, width, D / heads]."""
    padded = group.pad(tokens.flatten(1)).unflatten(2, tokens.shape[1:])
    return padded.permute(2, 0, 3, 1, 4).flatten(1, 2).contiguous()


def _pack_heads(group: Group, parts: Sequence[Tensor], out: Tensor) -> None:
    """Write K times float[rows * heads, width, D / heads] into float[end - start, K, heads, D / heads]."""
    shape = (group.rows, group.width, *out.shape[1:])
    padded = out.view(shape) if group.pack_index is None else out.new_empty(shape)
    for number, part in enumerate(parts):
        padded[:, :, number] = part.unflatten(0, (-1, out.shape[2])).transpose(1, 2)
    if group.pack_index is not None:
        group.pack(padded, out.flatten(1))


def _pad_gradient(group: Group, grad_output: Tensor, heads: int) -> Tensor:
    """float[end - start, D] -> float[rows * heads, width, D / heads]."""
    return group.pad_with_zeros(grad_output).unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _attend(
    query: Tensor, key_value: Tensor, group: Group, heads: int, dropout: float, causal: bool = False
) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
    """float[rows * heads, queries, D / heads], float[2, rows * heads, width, D / heads] -> float[rows, queries, heads,
    D / heads] and, for the gradient, the probabilities and what dropout multiplied them with."""
    key, value = key_value
    probabilities = _attention_probabilities(query, key, heads, group.is_padding, causal)
    scales = dropout_scales(probabilities, dropout) if dropout else None
    context = torch.bmm(_dropped(probabilities, scales), value).unflatten(0, (-1, heads)).transpose(1, 2)
    return context, (probabilities, scales)


def _gradients(
    grad_context: Tensor,
    query: Tensor,
    key_value: Tensor,
    probabilities: Tensor,
    scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of query, key and value."""
    key, value = key_value
    grad_probabilities = _dropped(torch.bmm(grad_context, value.mT), scales)
    grad_scores = torch._softmax_backward_data(grad_probabilities, probabilities, -1, probabilities.dtype)
    scale = query.shape[2] ** -0.5
    grad_query, grad_key = _scaled_bmm(grad_scores, key, scale), _scaled_bmm(grad_scores.mT, query, scale)
    return grad_query, grad_key, torch.bmm(_dropped(probabilities, scales).mT, grad_context)


def _dropped(weights: Tensor, scales: Tensor | None) -> Tensor:
    return weights if scales is None else weights * scales


def _attention_probabilities(query: Tensor, key: Tensor, heads: int, is_padding: Tensor | None, causal: bool) -> Tensor:
    """softmax(query @ key^T / sqrt(D / heads)): float[rows * heads, ..., D / heads] twice, bool[rows, width] ->
    float[rows * heads, queries, width]."""
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
