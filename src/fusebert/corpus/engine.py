"""Who does the work on batches: this process, processes of this machine, or Ray's workers on many."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import active_children, get_context
from typing import Any, Protocol, TypeVar

from fusebert.errors import FusebertError, UsageError, how_to_install
from fusebert.workers import follow_parent, without_ctrl_c

Item = TypeVar("Item")
Result = TypeVar("Result")
GO_ON = "--resume goes on at the last whole shard"
STORE_BYTES = 128 * 2**20
LOOPBACK = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
LOST_WORKERS = 3
"""So often the work of a lost worker is repeated before Ray gives up."""


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
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=follow_parent)

    def submit(function: Callable[[Any], Any], item: Any) -> Future[Any]:
        try:
            with without_ctrl_c():
                return pool.submit(function, item)
        except OSError as error:  # "handle is closed": the pool breaks just now
            raise BrokenProcessPool(str(error)) from None

    try:
        yield _Submitting(submit, lambda future: future.result())
    except BrokenProcessPool:
        for worker in set(active_children()) - others:
            worker.kill()  # the pool forgets one that it was just starting when it broke, and waits for it for ever
        raise FusebertError(f"a worker process was killed, perhaps for its memory; {GO_ON}") from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ray(workers: int) -> Iterator[Engine]:
    """A cluster that RAY_ADDRESS names, or one of this machine that nothing outside can reach.

    Ray repeats the work of a lost worker; the function is pure, so nothing is lost or doubled.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what Ray warns of; there are no GPUs to hide
    try:
        import ray
        from ray.exceptions import RayError, RayTaskError
    except ImportError:
        raise UsageError(f"--engine ray needs Ray; {how_to_install('scale')}") from None
    started = not ray.is_initialized()
    own = {"address": "local", "num_cpus": workers, "object_store_memory": STORE_BYTES, **LOOPBACK}
    try:
        if started:
            _start_ray({} if os.environ.get("RAY_ADDRESS") else own)
        remote = ray.remote(num_cpus=1, max_retries=LOST_WORKERS)(_call)
        yield _Submitting(remote.remote, ray.get)
    except RayTaskError:  # the function's own failure, not the cluster's
        raise
    except (RayError, ConnectionError) as error:
        raise FusebertError(f"Ray lost its workers ({' '.join(str(error).split())[:200]}); {GO_ON}") from None
    finally:
        if started:
            ray.shutdown()


def _start_ray(given: dict[str, Any]) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(log_to_driver=False, configure_logging=False, **given)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        where = os.environ.get("RAY_ADDRESS")
        todo = f"look at RAY_ADDRESS={where}" if where else "--engine local works without it"
        raise FusebertError(f"cannot start or reach Ray ({' '.join(str(error).split())[:200]}); {todo}") from None


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    return function(item)
