"""A part of the model that another part reads and does not own."""

from __future__ import annotations

from typing import Any

from torch import nn


class Borrowed:
    """Keeps a module out of its reader's own parameters, so that it is counted, saved and moved once.

    In a deep copy of the whole model the reader has the copied module, because owners are copied before heads; a deep
    copy of the reader alone, as peft makes one, keeps the original module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Borrowed:
        return Borrowed(memo.get(id(self.module), self.module))
