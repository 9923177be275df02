"""Cross-entropy with one of many pieces or items, where logits are most of what a step reads and writes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusebert.model.cpu import fill, linear, product, product_dtype

ROWS_AT_ONCE = 16
"""Of 30,522 pieces in fp32, 2 MB: a processor's second cache."""
RARE = 1e-30
"""Well above the end of fp32, where logarithms of shares become inexact and then infinite."""


def cross_entropy_sum(logits: Tensor, answers: Tensor) -> Tensor:
    """-log softmax(logits)[answers] of float[M, V] and int64[M], the sum over M in nats."""
    return F.nll_loss(log_softmax(logits), answers, reduction="sum")


def log_softmax(logits: Tensor) -> Tensor:
    """In fp32, without a copy of the logits in fp32, which autocast would make first."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.log_softmax(logits, dim=1, dtype=torch.float32)


def linear_cross_entropy_sum(hidden: Tensor, weight: Tensor, bias: Tensor, answers: Tensor) -> Tensor:
    """`cross_entropy_sum` of `linear(hidden, weight, bias)`, in training on a processor in half the time.

    Args:
        hidden: float[M, D].
        weight: float[V, D].
        bias: float[V].
        answers: int64[M], in [0, V).

    Returns:
        float[], fp32.
    """
    is_training = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if hidden.device.type == "cpu" and is_training and len(hidden) and not torch.compiler.is_compiling():
        return _CpuLinearCrossEntropy.apply(hidden, weight, bias, answers)
    return cross_entropy_sum(linear(hidden, weight, bias), answers)


class _CpuLinearCrossEntropy(torch.autograd.Function):
    """The logits become their gradient, softmax minus one at the answer, a few rows at a time while they are in cache.

    torch's own operators pass ten times over logits that fit no cache, a quarter of a small model's step.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, answers: Tensor) -> Tensor:
        kind = product_dtype(hidden)
        ctx.kinds = hidden.dtype, weight.dtype, bias.dtype
        hidden, weight, asked = fill(hidden.to(kind)), weight.to(kind), len(answers)
        logits = product(hidden, weight, bias.to(kind))
        logits[asked:] = 0  # they meet zeros only, but infinity times zero is no number
        found, for_bias = [], torch.zeros(len(weight))
        for row, places in zip(logits[:asked].split(ROWS_AT_ONCE), answers[:, None].split(ROWS_AT_ONCE), strict=True):
            shares = torch.softmax(row, dim=1, dtype=torch.float32)
            own = shares.gather(1, places)
            found.append(own.log() if own.min() > RARE else log_softmax(row).gather(1, places))
            row.copy_(shares.scatter_(1, places, own - 1))
            for_bias += shares.sum(0)
        ctx.save_for_backward(logits, hidden, weight, for_bias)
        ctx.asked = asked
        return -torch.cat(found).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient, hidden, weight, for_bias = ctx.saved_tensors
        asks_hidden, asks_weight, *_ = ctx.needs_input_grad
        for_hidden = product(gradient, weight.t())[: ctx.asked] * gradients[0] if asks_hidden else None
        for_weight = product(gradient.t(), (hidden * gradients[0]).t()) if asks_weight else None
        found = (for_hidden, for_weight, for_bias * gradients[0])
        return *(one if one is None else one.to(kind) for one, kind in zip(found, ctx.kinds, strict=True)), None
