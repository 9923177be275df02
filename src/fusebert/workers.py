"""Processes that end with the process that began them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import parent_process
from threading import Thread
from typing import Any


def follow_parent(*_: object) -> None:
    """Called first in a worker. Ctrl-C is the parent's to answer; and a worker whose parent was killed would wait for
    work for ever."""

    def leave_with_it() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=leave_with_it, daemon=True).start()


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Within it a Ctrl-C waits, and processes that begin there never see one, not even before `follow_parent`."""
    came = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which such processes inherit
    handler: Any = None
    with suppress(ValueError):  # not in the main thread, which alone is interrupted
        handler = signal.signal(signal.SIGINT, lambda *given: came.append(given))  # another thread may take the signal
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if came and callable(handler):
        handler(*came[0])


def stop_with_stdin() -> None:
    """Take the end of stdin, a pipe that the parent holds as long as it lives, for SIGTERM: a training saves and ends.

    A parent that is killed cannot send a signal; but the system closes its pipes.
    """

    def stop_at_its_end() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=stop_at_its_end, daemon=True).start()
