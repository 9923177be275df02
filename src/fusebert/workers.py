"""Worker processes end with the process that began them."""

from __future__ import annotations

import os
import signal
from multiprocessing import parent_process
from threading import Thread


def follow_parent(*_: object) -> None:
    """Called first in a worker. Ctrl-C is the parent's to answer; and a worker whose parent was killed would wait for
    work for ever."""

    def leave_with_it() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=leave_with_it, daemon=True).start()
