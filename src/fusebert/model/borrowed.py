"""A part of the model that another part reads and does not own."""

from __future__ import annotations

from typing import Any

from torch import nn


class Borrowed:
    """Keeps a module out of its reader's own parameters, so that it is counted, saved and moved once.

    A copy of the whole model reads the copied module, for owners are copied before heads; a copy of the reader alone,
    as peft makes one, reads the same module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module: Any = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Borrowed:
        return Borrowed(memo.get(id(self.module), self.module))
