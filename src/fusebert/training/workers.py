"""Processes that prepare rows beside training: how they begin, and how what they cannot read comes back."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing import forkserver
from typing import Any

from fusebert.data.collate import Collator, Example
from fusebert.data.dataset import Dataset
from fusebert.errors import FusebertError
from fusebert.training.signals import without_interrupts

Batch = dict[str, Any]


def worker_context() -> Any:
    """Of processes that are forked from one in which training is imported, and so begin at once.

    A process of its own imports torch first, for seconds, one worker after the other, anew in every epoch.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "fusebert.training.trainer"])
    with without_interrupts():  # which it inherits: Ctrl-C while it imports would take it away from the parent
        forkserver.ensure_running()
    return context


class RowsOrErrors:
    """Rows by number, and what keeps one from being read as a value: torch would put the worker's traceback into its
    words."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Example | FusebertError:
        try:
            return self.rows[number]
        except FusebertError as error:
            return error


class BatchOrError:
    """Collates rows, unless one of them is an error."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, rows: Sequence[Example | FusebertError]) -> Batch | FusebertError:
        for row in rows:
            if isinstance(row, FusebertError):
                return row
        return self.collator(rows)  # type: ignore[arg-type]


def raising(batches: Iterable[Batch | FusebertError]) -> Iterator[Batch]:
    """The batches, until one is an error, which is raised."""
    for batch in batches:
        if isinstance(batch, FusebertError):
            raise batch
        yield batch
