"""Attention over packed rows: each row attends to itself; what is padded, on a CPU in part, is so in here alone.

Where the layout is causal, a token attends to no later one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fusebert.model.cpu import is_half, product_dtype
from fusebert.model.grouped import GroupedAttention, GroupedReads
from fusebert.types import Layout, Reads


def attention(qkv: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention (Vaswani et al. 2017, eq. 1) within each row.

    Args:
        qkv: float[N, 3, heads, D / heads], query, key and value of packed rows; on a CPU, tokens may follow the last
            row, and give zeros.
        layout: where each row lies.
        dropout: probability of dropping an attention weight, in [0, 1).

    Returns:
        float[N, D].
    """
    if has_flash_attention(qkv, dropout):
        query, key, value = qkv.unbind(1)
        return _flash_attention(query, key, value, layout.cu_seqlens, layout)
    if qkv.device.type == "cpu":
        return _grouped_attention(qkv, layout, dropout)
    return padded_attention(qkv, layout, dropout)


def attention_of_reads(query: Tensor, key_value: Tensor, reads: Reads, layout: Layout, dropout: float = 0.0) -> Tensor:
    """The same for the tokens that are read, where `packs_reads`.

    Args:
        query: float[M, heads, D / heads], of the tokens at `reads.places`.
        key_value: float[N, 2, heads, D / heads], of all tokens.

    Returns:
        float[M, D].
    """
    if query.is_cuda:
        key, value = key_value.unbind(1)
        return _flash_attention(query, key, value, reads.cu_seqlens, layout)
    return _grouped_reads(query, key_value, reads, layout, dropout)


def packs_reads(hidden: Tensor, layout: Layout, dropout: float) -> bool:
    """Whether only the tokens that are read need ask, given the trunk's float[N, D]."""
    return not layout.causal and (hidden.device.type == "cpu" or has_flash_attention(hidden, dropout))


def has_flash_attention(values: Tensor, dropout: float) -> bool:
    """Whether a packed kernel of the GPU takes such values."""
    return values.is_cuda and values.dtype in (torch.bfloat16, torch.float16) and dropout == 0


def _flash_attention(query: Tensor, key: Tensor, value: Tensor, query_starts: Tensor, layout: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    starts, longest = layout.cu_seqlens, layout.longest  # of a row's tokens, those that ask are at most as many
    window = (-1, 0) if layout.causal else (-1, -1)
    found = varlen_attn(query, key, value, query_starts, starts, longest, longest, window_size=window)
    return found.flatten(1)  # type: ignore[union-attr]


# compiled, it would be recompiled for the lengths of each batch
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _grouped_attention(qkv: Tensor, layout: Layout, dropout: float) -> Tensor:
    """One call for each run of rows of equal length; in bf16 and fp16, and with dropout, of about equal length."""
    if is_half(qkv) or dropout:
        return GroupedAttention.apply(qkv.to(product_dtype(qkv)), layout.lengths, dropout, layout.causal)
    groups = layout.groups()
    sizes = [sum(lengths) for lengths in groups]
    *parts, padding = qkv.split([*sizes, len(qkv) - sum(sizes)])
    contexts = [_equal_rows(part, lengths, layout.causal) for part, lengths in zip(parts, groups, strict=True)]
    if len(padding):
        contexts.append(torch.zeros_like(padding[:, 0].flatten(1)))
    return torch.cat(contexts) if len(contexts) > 1 else contexts[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _grouped_reads(query: Tensor, key_value: Tensor, reads: Reads, layout: Layout, dropout: float) -> Tensor:
    dtype, counts = product_dtype(query), tuple(reads.cu_seqlens.diff().tolist())
    return GroupedReads.apply(query.to(dtype), key_value.to(dtype), layout.lengths, counts, dropout)


def _equal_rows(qkv: Tensor, lengths: list[int], causal: bool) -> Tensor:
    """Rows of equal length: views of the packed tensor, no input is copied."""
    query, key, value = qkv.unflatten(0, (len(lengths), lengths[0])).permute(2, 0, 3, 1, 4).unbind(0)
    context = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    return context.transpose(1, 2).reshape(len(qkv), -1)


def padded_attention(qkv: Tensor, layout: Layout, dropout: float = 0.0) -> Tensor:
    """The same numbers as `attention` by padding and a mask, for devices and dtypes without packed kernels."""
    starts, lengths, longest = layout.cu_seqlens[:-1], layout.cu_seqlens.diff(), layout.longest
    steps = torch.arange(longest, device=qkv.device)
    real = steps < lengths[:, None]
    places = (starts[:, None] + steps).clamp(max=len(qkv) - 1)  # behind a row's end, tokens of the next; masked
    padded = F.embedding(places, qkv.flatten(1)).unflatten(2, qkv.shape[1:])
    query, key, value = padded.permute(2, 0, 3, 1, 4).unbind(0)
    seen = real[:, None, None, :]
    if layout.causal:
        seen = seen & (steps <= steps[:, None])
    context = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
    tokens = torch.arange(len(qkv), device=qkv.device, dtype=starts.dtype)
    rows = torch.searchsorted(layout.cu_seqlens, tokens, right=True) - 1
    return F.embedding(rows * longest + tokens - starts[rows], context.transpose(1, 2).flatten(2).flatten(0, 1))
