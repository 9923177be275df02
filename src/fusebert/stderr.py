"""Words on stderr are worth less than the work that they are about, and command no terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

STDERR = 2
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, but for line ends and tabs, and what turns the direction of the letters that follow."""


def visible(text: str) -> str:
    """Control characters as JSON spells them: a label or a column's name may hold some that a terminal would obey."""
    return COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextmanager
def lasting() -> Iterator[None]:
    """Where stderr cannot be written, as its disk is full or its reader has gone, all that follows goes nowhere."""
    try:
        yield
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDERR)
