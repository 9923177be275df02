"""Processes that prepare rows beside training: how they begin, and how what they cannot read comes back."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from typing import Any

from fusebert.data.collate import Collator
from fusebert.data.dataset import Split
from fusebert.errors import FusebertError
from fusebert.training.signals import handled
from fusebert.types import Example
from fusebert.workers import follow_parent

Batch = dict[str, Any]
TOO_MANY_FILES = ("Too many open files", "ancdata")


def worker_context() -> Any:
    """Of processes that are forked from one in which training is imported, and so begin at once.

    A process of its own imports torch first, for seconds, one worker after the other, anew in every epoch.
    """
    allow_open_files()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "fusebert.training.trainer"])
    # which it inherits: a signal to all processes would take it away from the parent, which may be starting a worker
    with handled((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN):
        forkserver.ensure_running()
    return context


def allow_open_files() -> None:
    """As many as the system lets this process have: rows come from workers through open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS allows fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class LostWorkerError(FusebertError):
    """A process that prepares rows has gone."""


def begin_worker(*_: object) -> None:
    """Called first in a process that prepares rows.

    SIGTERM ends it as if it were done. Else torch, told that it was killed, would raise in the midst of a step of the
    parent, which may have got the same signal and wants to save.
    """
    follow_parent()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@contextmanager
def naming_lost_workers() -> Iterator[None]:
    """Raises LostWorkerError for what torch raises."""
    try:
        yield
    except (RuntimeError, EOFError, OSError) as error:
        if isinstance(error, EOFError) or any(words in str(error) for words in TOO_MANY_FILES):
            raise LostWorkerError(
                "the processes that prepare rows need more open files than this shell allows (`ulimit -n`); raise it, "
                "or go on with --resume and fewer training.workers"
            ) from error
        if "DataLoader worker" not in str(error):
            raise
        raise LostWorkerError(
            "a process that prepares rows was killed, perhaps as memory was short; go on with --resume, with fewer "
            "training.workers"
        ) from error


class RowsOrErrors:
    """Rows by number, and what keeps one from being read as a value: torch would put the worker's traceback into its
    words."""

    def __init__(self, rows: Split) -> None:
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
