"""Words on stderr are worth less than the work that they are about."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2


@contextmanager
def lasting() -> Iterator[None]:
    """Where stderr cannot be written, as its disk is full or its reader has gone, all that follows goes nowhere."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
