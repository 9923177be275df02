"""Attention over packed rows: each row attends to itself, and no padding exists outside `padded_attention`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusebert.types import Layout


def attention(qkv: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) within each row.

    Args:
        qkv: float[N, 3, heads, D / heads], the three projections of packed rows.
        layout: where each row lies.
        dropout: share of attention weights dropped, in [0, 1).

    Returns:
        float[N, D].
    """
    if qkv.is_cuda and qkv.dtype in (torch.bfloat16, torch.float16) and dropout == 0:
        return _flash_attention(qkv, layout)
    if qkv.device.type == "cpu":
        return _grouped_attention(qkv, layout, dropout)  # type: ignore[no-any-return]
    return padded_attention(qkv, layout, dropout)


def _flash_attention(qkv: Tensor, layout: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = qkv.unbind(1)
    starts, longest = layout.cumulative, layout.longest
    return varlen_attn(query, key, value, starts, starts, longest, longest).flatten(1)  # type: ignore[union-attr]


# compiled, it would be made anew for the lengths of each batch
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _grouped_attention(qkv: Tensor, layout: Layout, dropout: float) -> Tensor:
    """One call for each run of rows of equal length: views of the packed tensor, nothing is copied in."""
    out = []
    for start, rows, length in layout.groups():
        group = qkv[start : start + rows * length].unflatten(0, (rows, length))
        query, key, value = group.permute(2, 0, 3, 1, 4).unbind(0)
        found = _attend(query, key, value, dropout)
        out.append(found.transpose(1, 2).reshape(rows * length, -1))
    return torch.cat(out) if len(out) > 1 else out[0]


def _attend(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
    """Attention of float[rows, heads, length, D / heads].

    bf16 goes through two products and a softmax: torch's own CPU kernel for its gradient is several times slower.
    """
    if query.dtype == torch.float32:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    weights = torch.softmax((query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2), dim=-1)
    return F.dropout(weights, dropout).to(value.dtype) @ value


def padded_attention(qkv: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """The same numbers by padding and a mask, for devices and precisions without packed kernels."""
    lengths = layout.cumulative.diff()
    real = torch.arange(layout.longest, device=qkv.device) < lengths[:, None]
    padded = qkv.new_zeros(*real.shape, *qkv.shape[1:])
    padded[real] = qkv
    query, key, value = padded.permute(2, 0, 3, 1, 4).unbind(0)
    found = F.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :], dropout_p=dropout)
    return found.transpose(1, 2)[real].flatten(1)
