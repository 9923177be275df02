"""What makes the same arithmetic quick on a processor: memory kept between steps, and cheap random bits for dropout."""

from __future__ import annotations

import ctypes
import sys

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 1 << 30
BYTE_VALUES = 256


def keep_freed_memory() -> None:
    """Let glibc keep freed memory instead of giving it back after every operation.

    A step allocates the same large tensors again and again; given back, each is mapped and zeroed page by page anew,
    which can cost more than the arithmetic. Does nothing where the C library is another one.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    except (OSError, AttributeError):
        return


class Dropout(nn.Dropout):
    """Dropout (Srivastava et al. 2014) that spends one random byte on each value of a CPU tensor.

    torch's CPU generator is sequential and gives 64 bits a draw; one byte a value needs an eighth of its draws. The share
    dropped is rounded to 1/256, and the scale is that of the rounded share, so the mean stays exact.
    """

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or self.p == 0 or values.device.type != "cpu":
            return F.dropout(values, self.p, self.training)
        dropped = max(1, round(self.p * BYTE_VALUES))
        count = values.numel()
        draws = torch.empty(-(-count // 8), dtype=torch.int64).random_(-(2**63), None)
        keep = draws.view(torch.uint8)[:count].view(values.shape) >= dropped
        return values * keep.to(values.dtype).mul_(BYTE_VALUES / (BYTE_VALUES - dropped))
