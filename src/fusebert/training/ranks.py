"""Several processes that train one model, started by torchrun or `accelerate launch`; one alone is the common case.

Each batch is dealt out row by row, so all processes together take the very step that one process would take. What they
have to agree on goes over the host (gloo), so that no step waits for a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule

from fusebert.errors import FusebertError

Value = TypeVar("Value")
MOST_WAIT = timedelta(days=1)
"""For what the first process does alone, such as tokenizing or scoring; torch's own 10 or 30 minutes may be too few."""
SYNC_BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(nn.parallel.DistributedDataParallel.__init__).parameters
)
"""Whether buffers are copied in each forward pass, as torch calls it from 2.13 on, and before."""
_of_lost_runs: list[Any] = []
"""Groups that are not to be taken apart at once: torch waits for a group's threads with Python's lock in hand, which
one of them may need to drop what it was doing when the other process went. That hung one of twenty survivors."""


class LostRankError(FusebertError):
    """Another process of the run has gone."""


def attempt(make: Callable[[], Value]) -> Value | FusebertError:
    """What is made, or the error in its place, so that it can be handed to other processes."""
    try:
        return make()
    except FusebertError as error:
        return error


def of_first(value: Value | FusebertError) -> Value:
    """The first process's value, in every process, before there are `Ranks`; an error of its is raised in all."""
    if PartialState().num_processes > 1:
        value = broadcast_object_list([value])[0]
    if isinstance(value, FusebertError):
        raise value
    return value


class Ranks:
    """What the processes of a run have to agree on.

    Args:
        accelerator: knows how many processes there are, and which one this is.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.rank: int = accelerator.process_index
        self.world_size: int = accelerator.num_processes
        self.group = distributed.new_group(backend="gloo", timeout=MOST_WAIT) if self.world_size > 1 else None

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports for all."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training: gradients become their mean over the processes."""
        if self.world_size == 1 or isinstance(model, FSDPModule):
            return model
        # a batch may lack a modality in one process and not in another; buffers, such as what describes a catalogue,
        # are alike from the start, or it is the first process's that are scored and saved
        how: dict[str, Any] = {"find_unused_parameters": True, SYNC_BUFFERS: False}
        return nn.parallel.DistributedDataParallel(model, **how)

    def own(self, rows: Sequence[int]) -> list[int]:
        """This process's rows of a batch; every process has at least one (whose loss may count nothing)."""
        return list(rows[self.rank :: self.world_size]) or list(rows[:1])

    def has_rows(self, rows: Sequence[int]) -> bool:
        """Whether the loss of `own(rows)` counts."""
        return len(rows) > self.rank

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each over all processes."""
        if self.world_size == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(found, group=self.group)
        return found.tolist()

    def any(self, value: bool) -> bool:
        """Whether any process gives True."""
        return self.sum([value])[0] > 0

    def of_first(self, value: Value) -> Value:
        """The first process's value, in every process."""
        if self.world_size == 1:
            return value
        found = [value]
        distributed.broadcast_object_list(found, src=0, group=self.group)
        return found[0]

    def all(self, value: Value) -> list[Value]:
        """Each process's value, in order."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, value, group=self.group)
        return found

    def wait(self) -> None:
        """Until every process is here."""
        if self.world_size > 1:
            distributed.barrier(group=self.group)


@contextmanager
def naming_lost_ranks(*groups: Any) -> Iterator[None]:
    """Raises LostRankError where another process of the run has gone, or has never come.

    Args:
        groups: that this process is in, beside the one of all processes.
    """
    try:
        yield
    except distributed.DistError as error:
        if distributed.is_initialized():
            raise
        raise LostRankError(
            f"the processes of this run do not find each other ({str(error).splitlines()[0]}); start all of them again"
        ) from error
    except RuntimeError as error:  # gloo raises nothing more special
        if not distributed.is_initialized() or "gloo" not in str(error):
            raise
        _of_lost_runs.extend([*groups, distributed.group.WORLD])
        raise LostRankError(
            "another process of this run is gone; start all of them again with --resume, they go on from the last "
            "checkpoint"
        ) from error


class OwnBatches:
    """The batches of a sampler, of which this process reads its own rows only."""

    def __init__(self, batches: Any, ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.ranks.own(rows) for rows in self.batches)
