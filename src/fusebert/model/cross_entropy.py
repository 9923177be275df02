"""Cross-entropy over a whole vocabulary or catalogue, where logits are most of what a step reads and writes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fusebert.model.cpu import linear, pad_rows, product, product_dtype

ROWS_AT_ONCE = 16
"""With 30,522 pieces in fp32, 2 MB of logits: a CPU's second-level cache."""
RARE = 1e-30
"""Probabilities below it: close to the end of fp32 their logarithms become inexact and then infinite."""


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """float[M, V], int64[M] -> float[], the sum of -log softmax(logits)[targets] over M, in nats and fp32."""
    return F.nll_loss(log_softmax(logits), targets, reduction="sum")


def log_softmax(logits: Tensor) -> Tensor:
    """float[M, V] -> float32[M, V], without a copy of the logits in fp32, which autocast would make first."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.log_softmax(logits, dim=1, dtype=torch.float32)


def linear_cross_entropy_sum(hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """`cross_entropy_sum` of `linear(hidden, weight, bias)`; training on a CPU takes half the time.

    Args:
        hidden: float[M, D].
        weight: float[V, D].
        bias: float[V].
        targets: int64[M], in [0, V).

    Returns:
        float[], in nats and fp32.
    """
    is_training = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if hidden.device.type == "cpu" and is_training and len(hidden) and not torch.compiler.is_compiling():
        return _CpuLinearCrossEntropy.apply(hidden, weight, bias, targets)
    return cross_entropy_sum(linear(hidden, weight, bias), targets)


class _CpuLinearCrossEntropy(torch.autograd.Function):
    """Turns the logits into their gradient, softmax minus one at the target, a few rows at a time while in cache.

    torch's own operators pass ten times over logits that fit no cache, a quarter of a small model's step.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        dtype, ctx.count = product_dtype(hidden), len(targets)
        ctx.dtypes = hidden.dtype, weight.dtype, bias.dtype
        hidden, weight = pad_rows(hidden.to(dtype)), weight.to(dtype)
        logits = product(hidden, weight, bias.to(dtype))
        logits[ctx.count :] = 0  # of padding; backward multiplies them by zeros only, but infinity times zero is NaN
        log_probabilities, grad_bias = [], torch.zeros(len(weight))
        rows, indices = logits[: ctx.count].split(ROWS_AT_ONCE), targets[:, None].split(ROWS_AT_ONCE)
        for row, index in zip(rows, indices, strict=True):
            probabilities = torch.softmax(row, dim=1, dtype=torch.float32)
            target_probability = probabilities.gather(1, index)
            is_exact = target_probability.min() > RARE
            log_probabilities.append(target_probability.log() if is_exact else log_softmax(row).gather(1, index))
            grad_logits = probabilities.scatter_(1, index, target_probability - 1)
            row.copy_(grad_logits)
            grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(logits, hidden, weight, grad_bias)
        return -torch.cat(log_probabilities).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,), (grad_logits, hidden, weight, grad_bias) = grad_outputs, ctx.saved_tensors
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        grad_hidden = product(grad_logits, weight.t())[: ctx.count] * grad_output if needs_hidden else None
        grad_weight = product(grad_logits.t(), (hidden * grad_output).t()) if needs_weight else None
        grads = (grad_hidden, grad_weight, grad_bias * grad_output)
        return *(one if one is None else one.to(dtype) for one, dtype in zip(grads, ctx.dtypes, strict=True)), None
