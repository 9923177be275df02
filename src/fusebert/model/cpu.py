"""The same arithmetic, faster on a CPU: freed memory is kept, random bits are cheap, oneDNN multiplies."""

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
DROPOUT_LEVELS = 1 << 16
"""Different values of the 16 random bits that decide whether a value is dropped."""
WIDE = 768
"""Width from which on it pays to transpose a matrix before oneDNN multiplies it."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back after every operation.

    A step allocates the same large tensors again and again. Memory that was given back is mapped and zeroed anew, page
    by page, which can cost more than the arithmetic. Does nothing where the C library is not glibc.
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
    """Keep freed memory, and flush denormal numbers (below 1e-38) to zero, in this process.

    Where gradients have stopped, as those of a word that is not met again, Adam's mean becomes denormal after 700 steps
    and stays so, and a CPU takes ten times as long over such numbers. Threads read the setting when they start, so call
    this before the first product.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014), with few random bits on a CPU."""

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return F.dropout(values, self.p, self.training)
        return values * dropout_scales(values, self.p)


def dropout_scales(values: Tensor, probability: float) -> Tensor:
    """What dropout multiplies each value of a CPU tensor with: 0, or what keeps the mean.

    It spends 16 random bits on each. torch's CPU generator is sequential and gives 64 bits a draw, so this needs a
    quarter of its draws. The probability is rounded to 1/65536, and the scale is that of the rounded one, so the mean
    stays, in bf16 to three digits.
    """
    dropped = min(round(probability * DROPOUT_LEVELS), DROPOUT_LEVELS - 1)
    count = values.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[:count].view(values.shape) >= dropped - DROPOUT_LEVELS // 2
    return keep.to(values.dtype).mul_(DROPOUT_LEVELS / (DROPOUT_LEVELS - dropped))


class Linear(nn.Linear):
    """A linear layer that on a CPU multiplies with the faster of torch's two matrix libraries."""

    def forward(self, values: Tensor) -> Tensor:
        return linear(values, self.weight, self.bias)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`values @ weight.T + bias`: float[N, in], float[out, in], float[out] or None -> float[N, out]."""
    if torch.compiler.is_compiling() or values.numel() == 0 or not uses_onednn(values):
        return F.linear(values, weight, bias)  # oneDNN has no gradient of empty tensors; the compiler picks for itself
    padded = pad_rows(values)
    output: Tensor = _OneDnnLinear.apply(padded, weight, bias)
    return output if padded is values else output[: len(values)]  # the gradient of a slice is a copy


def pad_rows(values: Tensor) -> Tensor:
    """float[N, D] followed by rows of zeros, so that few different N occur, where oneDNN will multiply it.

    oneDNN makes a kernel for each shape it meets and keeps a thousand. Packed batches have another number of tokens
    each time, and with AMX making a kernel takes a millisecond, twenty times as long as a small product.
    """
    missing = round_up(len(values)) - len(values) if uses_onednn(values) else 0
    return F.pad(values, (0, 0, 0, missing)) if missing else values


def round_up(count: int, multiple: int = 16) -> int:
    """The next multiple of `multiple`, or of a sixteenth of the highest power of two in `count`, if that is more."""
    multiple = max(multiple, 1 << count.bit_length() >> 5)
    return -(-count // multiple) * multiple


def is_half(values: Tensor) -> bool:
    """Whether products of a CPU tensor are made in bf16 or fp16."""
    return product_dtype(values) in (torch.bfloat16, torch.float16)


def product_dtype(values: Tensor) -> torch.dtype:
    """The dtype in which products of a CPU tensor are made: autocast's, where it is on."""
    is_autocast = torch.is_autocast_enabled("cpu") and values.dtype == torch.float32
    return torch.get_autocast_dtype("cpu") if is_autocast else values.dtype


def uses_onednn(values: Tensor) -> bool:
    """Whether oneDNN will multiply this tensor."""
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
        dtype = product_dtype(values)
        ctx.dtypes, ctx.has_bias = (values.dtype, weight.dtype), bias is not None
        values, weight = values.to(dtype), weight.to(dtype)
        ctx.save_for_backward(values, weight)
        return product(values, weight, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        values, weight = ctx.saved_tensors
        grad_output = grad_outputs[0].contiguous()
        needs_grad, (input_dtype, weight_dtype) = ctx.needs_input_grad, ctx.dtypes
        grad_input = product(grad_output, weight.t()).to(input_dtype) if needs_grad[0] else None
        if not (needs_grad[1] or needs_grad[2]):
            return grad_input, None, None
        grad_weight, grad_bias = _parameter_gradients(grad_output, values)
        return grad_input, grad_weight.to(weight_dtype), grad_bias.to(weight_dtype) if ctx.has_bias else None


def _parameter_gradients(grad_output: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """float[N, out], float[N, in] -> the gradients of a layer's weight, float[out, in], and bias, float[out].

    For wide layers in bf16 the narrower matrix is transposed first: within its product oneDNN takes twice as long to.
    """
    (rows, out), width = grad_output.shape, values.shape[1]
    if grad_output.dtype == torch.float32 or min(rows, out, width) < WIDE or out == width:
        return product(grad_output.t(), values.t()), grad_output.sum(0)
    if out < width:
        transposed = _transposed(grad_output)
        return product(transposed, values.t()), transposed.sum(1)
    transposed = values.new_ones(width + 1, rows)  # the row of ones makes the product sum up the bias's gradient too
    _transposed(values, transposed[:width])
    grads = product(transposed, grad_output.t())
    return _transposed(grads[:width]), grads[width]


def _transposed(matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """float[N, D] -> float[D, N], contiguous."""
    # in one piece torch would copy value by value, between places that share a cache line
    return torch.cat([rows.t() for rows in matrix.split(64)], dim=1, out=out)


def product(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`values @ weight.T + bias`, without a gradient, of CPU tensors of one dtype."""
    is_plain = bias is None and values.dtype != torch.float32  # F.linear reads transposed operands without a copy
    if is_plain or not uses_onednn(values) or not onednn_multiplies(values.dtype):
        return F.linear(values, weight, bias)
    bias = None if bias is None else bias.contiguous()  # the operator ignores strides of a bias
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


@cache
def onednn_multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN's operator exists and supports this dtype on this CPU."""
    try:
        one = torch.ones(1, 1, dtype=dtype)
        torch.ops.mkldnn._linear_pointwise(one, one, one[0], "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return True
