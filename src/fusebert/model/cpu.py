"""What makes the same arithmetic quick on a processor: kept memory, cheap random bits, the faster matrix library."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = (1 << 31) - 1  # what mallopt's int holds
MOST_IN_OLD_GLIBC = 32 << 20  # where mallopt(3) still has a limit, and more is refused
SHARES = 1 << 16
WIDE = 768


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back after every operation.

    A step allocates the same large tensors again and again; given back, each is mapped and zeroed page by page anew,
    which can cost more than the arithmetic. Does nothing where the C library is another one.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES) or libc.mallopt(M_MMAP_THRESHOLD, MOST_IN_OLD_GLIBC)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    except (OSError, AttributeError):
        return


def prepare_to_train() -> None:
    """Keep freed memory, and take numbers below 1e-38 for zero, in this process.

    Adam's mean of a gradient that has stopped coming, as that of a word not met again, gets there in 700 steps and
    stays; a processor takes ten times as long over such numbers. Threads learn of it when they begin, so this comes
    before the first product.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) that spends 16 random bits on each value of a CPU tensor.

    torch's CPU generator is sequential and gives 64 bits a draw, so this needs a quarter of its draws. The share
    dropped is rounded to 1/65536, and the scale is that of the rounded share, so the mean stays,
    in bf16 to three digits.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return F.dropout(values, self.p, self.training)
        dropped = min(round(self.p * SHARES), SHARES - 1)
        count = values.numel()
        draws = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.int16)[:count].view(values.shape) >= dropped - SHARES // 2
        return values * keep.to(values.dtype).mul_(SHARES / (SHARES - dropped))


class Linear(nn.Linear):
    """A linear layer whose fp32 products on a CPU run on the faster of torch's two matrix libraries."""

    def forward(self, values: Tensor) -> Tensor:
        return linear(values, self.weight, self.bias)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`values @ weight.T + bias`, float[N, in] -> float[N, out]."""
    if torch.compiler.is_compiling() or values.numel() == 0 or not uses_onednn(values):
        return F.linear(values, weight, bias)  # of nothing oneDNN makes no gradient; the compiler picks for itself
    filled = fill(values)
    found: Tensor = _OneDnnLinear.apply(filled, weight, bias)
    return found if filled is values else found[: len(values)]  # a slice costs its gradient a copy


def fill(values: Tensor) -> Tensor:
    """Zeros behind float[N, D], up to one of few numbers of rows, where oneDNN will multiply it.

    oneDNN makes a kernel for each shape it meets and keeps a thousand. Packed batches have another number of tokens
    each time, and with AMX making a kernel takes a millisecond, twenty times as long as a small product.
    """
    more = rounded(len(values)) - len(values) if uses_onednn(values) else 0
    return F.pad(values, (0, 0, 0, more)) if more else values


def rounded(count: int, multiple: int = 16) -> int:
    """The next multiple, of a sixteenth of the count's power of two where that is more."""
    multiple = max(multiple, 1 << count.bit_length() >> 5)
    return -(-count // multiple) * multiple


def is_half(values: Tensor) -> bool:
    """Whether products of a CPU tensor are in half precision."""
    return product_dtype(values) in (torch.bfloat16, torch.float16)


def product_dtype(values: Tensor) -> torch.dtype:
    """In what products of a CPU tensor are made."""
    is_changed = torch.is_autocast_enabled("cpu") and values.dtype == torch.float32
    return torch.get_autocast_dtype("cpu") if is_changed else values.dtype


def uses_onednn(values: Tensor) -> bool:
    """Whether oneDNN will multiply it."""
    return values.device.type == "cpu" and (is_half(values) or (values.dtype == torch.float32 and onednn_is_faster()))


@cache
def onednn_is_faster() -> bool:
    """Whether fp32 products should go to oneDNN: torch sends them to MKL, which takes a slow path on AMD processors."""
    has_operator = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
    return has_operator and "AMD" in str(torch.cpu.get_capabilities().get("cpu_name", ""))


class _OneDnnLinear(torch.autograd.Function):
    """oneDNN's own operator, with its gradients: torch calls it for fp32, or with a bias, only from compiled code."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = product_dtype(values)
        ctx.kinds, ctx.has_bias = (values.dtype, weight.dtype), bias is not None
        values, weight = values.to(kind), weight.to(kind)
        ctx.save_for_backward(values, weight)
        return product(values, weight, None if bias is None else bias.to(kind))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        values, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        wanted, (of_values, of_weight) = ctx.needs_input_grad, ctx.kinds
        for_values = product(gradient, weight.t()).to(of_values) if wanted[0] else None
        if not (wanted[1] or wanted[2]):
            return for_values, None, None
        for_weight, for_bias = _for_parameters(gradient, values)
        return for_values, for_weight.to(of_weight), for_bias.to(of_weight) if ctx.has_bias else None


def _for_parameters(gradient: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """float[N, out], float[N, in] -> the gradients of a layer's weight, float[out, in], and bias, float[out].

    Of wide layers in bf16 the narrower matrix is turned first: oneDNN takes twice as long to, within its product.
    """
    (count, out), width = gradient.shape, values.shape[1]
    if gradient.dtype == torch.float32 or min(count, out, width) < WIDE or out == width:
        return product(gradient.t(), values.t()), gradient.sum(0)
    if out < width:
        turned = _turned(gradient)
        return product(turned, values.t()), turned.sum(1)
    turned = values.new_ones(width + 1, count)  # within the product a row of ones sums for nothing
    _turned(values, turned[:width])
    found = product(turned, gradient.t())
    return _turned(found[:width]), found[width]


def _turned(matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """float[N, D] -> float[D, N]."""
    # in one piece torch would copy one value at a time, between places that share a line of the cache
    return torch.cat([rows.t() for rows in matrix.split(64)], dim=1, out=out)


def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`values @ weight.T + bias` without a gradient, of tensors of one kind on a CPU."""
    is_plain = bias is None and values.dtype != torch.float32  # torch also reads transposed ones without a copy
    if is_plain or not uses_onednn(values) or not onednn_multiplies(values.dtype):
        return F.linear(values, weight, bias)
    bias = None if bias is None else bias.contiguous()  # it is read as if it were
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


@cache
def onednn_multiplies(kind: torch.dtype) -> bool:
    """Whether oneDNN's operator exists and knows this kind of numbers on this processor."""
    try:
        one = torch.ones(1, 1, dtype=kind)
        torch.ops.mkldnn._linear_pointwise(one, one, one[0], "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return True
