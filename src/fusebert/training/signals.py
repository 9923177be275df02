"""SIGINT, SIGTERM and SIGHUP in a run: the first asks for a clean stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


def stopping() -> list[int]:
    """The signals that ask to stop; that of a closed terminal not where it is ignored (nohup)."""
    hung_up = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGINT, signal.SIGTERM, *hung_up]


class Signals:
    """Within it, the first signal that asks to stop asks for a clean one; a second one acts as before."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self.ask = ask
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in stopping():
            try:
                self.before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: the caller keeps its own handlers
                return

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.ask()
        signal.signal(number, self.before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


@contextmanager
def handled(numbers: Iterable[int], handler: Any) -> Iterator[None]:
    """Within it, `handler` takes these signals. Where it is SIG_IGN, processes that begin there ignore them, too."""
    before: dict[int, Any] = {}
    try:
        for number in numbers:
            before[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread: the caller keeps its own handlers
        pass
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def passing_on(process: int) -> Iterator[list[int]]:
    """Within it, what asks this process to stop asks another one instead; the list is of the signals that came."""
    came: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        came.append(number)
        with suppress(ProcessLookupError):
            os.kill(process, number)

    with handled([one for one in stopping() if signal.getsignal(one) != signal.SIG_IGN], pass_on):
        yield came
