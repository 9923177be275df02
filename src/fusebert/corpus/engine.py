"""Who does the work on batches: this process, processes of this machine, or Ray's workers on many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from fusebert.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Engine(Protocol):
    """Applies a function to items in order, holding at most `in_flight` of them at a time."""

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], in_flight: int) -> Iterator[Result]: ...


class _Here:
    """This process."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], in_flight: int) -> Iterator[Any]:  # noqa: ARG002
        return map(function, items)


class _Submitting:
    """Anything that takes work now and gives its result later.

    Args:
        submit: function and item -> a ticket.
        collect: ticket -> result, waiting for it.
    """

    def __init__(self, submit: Callable[[Callable[[Any], Any], Any], Any], collect: Callable[[Any], Any]) -> None:
        self.submit, self.collect = submit, collect

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], in_flight: int) -> Iterator[Any]:
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(self.submit(function, item))
            if len(waiting) >= in_flight:
                yield self.collect(waiting.popleft())
        while waiting:
            yield self.collect(waiting.popleft())


def pick_engine(name: str, workers: int) -> AbstractContextManager[Engine]:
    """`local` or `ray`."""
    if name == "local":
        return _local(workers)
    if name == "ray":
        return _ray(workers)
    raise UsageError(f"--engine must be local or ray, not {name!r}")


@contextmanager
def _local(workers: int) -> Iterator[Engine]:
    if workers == 1:
        yield _Here()
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        yield _Submitting(pool.submit, lambda future: future.result())
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ray(workers: int) -> Iterator[Engine]:
    """Ray's own retries repeat the work of a lost worker; the function is pure, so nothing is lost or doubled."""
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray; pip install 'fusebert[scale]'") from None
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
    remote = ray.remote(num_cpus=1, max_retries=3)(_call)
    try:
        yield _Submitting(remote.remote, ray.get)
    finally:
        if started:
            ray.shutdown()


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
