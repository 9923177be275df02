"""Several processes that train one model, started by torchrun or `accelerate launch`; one alone is the common case.

Each batch is dealt out row by row, so all processes together take the very step that one process would take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

Value = TypeVar("Value")


class Ranks:
    """What the processes of a run have to agree on.

    Args:
        accelerator: knows how many processes there are, and which one this is.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.number: int = accelerator.process_index
        self.count: int = accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.number == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training: gradients become their mean over the processes."""
        if self.count == 1:
            return model
        # a batch may lack a modality in one process and not in another
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def own(self, rows: Sequence[int]) -> list[int]:
        """This process's rows of a batch; every process has at least one (whose loss may count nothing)."""
        return list(rows[self.number :: self.count]) or list(rows[:1])

    def weight(self, rows: int) -> float:
        """What a mean over this process's rows is multiplied with, so that the mean over the processes of all products
        is the mean over the batch's `rows` rows."""
        return len(range(self.number, rows, self.count)) * self.count / rows

    def any(self, value: bool) -> bool:
        """Whether it holds in some process."""
        if self.count == 1:
            return value
        found = torch.tensor(float(value), device=self.accelerator.device)
        return bool(self.accelerator.reduce(found, "sum") > 0)

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Over all processes."""
        return value if self.count == 1 else self.accelerator.reduce(value.clone(), "sum")

    def of_first(self, value: Value) -> Value:
        """The first process's value, in every process."""
        return value if self.count == 1 else broadcast_object_list([value])[0]

    def all(self, value: Value) -> list[Value]:
        """Each process's value, in order."""
        return [value] if self.count == 1 else list(gather_object([value]))

    def wait(self) -> None:
        """Until every process is here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()


class OwnBatches:
    """The batches of a sampler, of which this process reads its own rows only."""

    def __init__(self, batches: Any, ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.ranks.own(rows) for rows in self.batches)
