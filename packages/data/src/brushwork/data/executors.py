"""Where the shards of a build are made: in this process, in several, or on a Ray cluster; the same bytes everywhere.

A shard is a pure function of the build's settings and its number, and is written by whoever makes it, so an executor
has nothing to do but to call a function for each item.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, Protocol, TypeVar, runtime_checkable

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
_function: Callable[[Any], Any]


@runtime_checkable
class Executor(Protocol):
    """Calls a function for each item, in any order, anywhere that the build's folder can be written from."""

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results as they come."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Processes of this machine.

    Attributes:
        num_processes: 1 works in this process; more start as many others, each with one thread for its arithmetic.
    """

    num_processes: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError for less than one process."""
        if self.num_processes < 1:
            raise ValueError(f"num_processes={self.num_processes}: expected at least 1")

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results as they come.

        Raises:
            ChildProcessError: a process was killed, as happens where memory runs out.
        """
        if self.num_processes == 1 or len(items) < 2:
            yield from map(function, items)
            return
        context = multiprocessing.get_context("spawn")  # a fork would copy threads and locks in any state
        stop = context.Event()
        with _one_thread():
            pool = ProcessPoolExecutor(
                min(self.num_processes, len(items)), context, initializer=_start, initargs=(function, os.getpid(), stop)
            )
            try:
                futures = [pool.submit(_call, item) for item in items]
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a process of the build was killed (was memory short?); the same command goes on where it stopped"
                ) from error
            except BaseException:  # interrupted, or a shard failed: nobody waits for others that are half made
                stop.set()
                raise
            finally:
                pool.shutdown(wait=not stop.is_set(), cancel_futures=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started meanwhile use one thread each: more threads than cores make small models crawl."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported, which is before a process does anything else
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _start(function: Callable[[Any], Any], parent: int, stop: Event) -> None:
    """Prepares a process: the function is unpickled once, and work ends with the parent, interrupted or killed."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent says what is to be done
    threading.Thread(target=_watch, args=(parent, stop), daemon=True).start()


def _watch(parent: int, stop: Event) -> None:
    while os.getppid() == parent and not stop.wait(0.5):
        pass
    os._exit(1)


def _call(item: Any) -> Any:
    return _function(item)


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Workers of a Ray cluster (extra `ray`), or of this machine; all must see the build's folder.

    A worker that dies is replaced, and what it was making is made again.

    Attributes:
        address: of a running cluster ("auto" finds it); None starts Ray on this machine.
        num_cpus: processors of a Ray that is started here; None takes all.
        cpus_per_shard, gpus_per_shard: what making a shard occupies.
        max_retries: times a shard is tried again after its worker has died; -1 for ever.
    """

    address: str | None = None
    num_cpus: int | None = None
    cpus_per_shard: float = 1
    gpus_per_shard: float = 0
    max_retries: int = 5

    def __call__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results as they come.

        Raises:
            ImportError: Ray is not installed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise ImportError("executor=ray needs Ray: pip install 'brushwork-data[ray]'") from error
        if not ray.is_initialized():
            here = {"num_cpus": self.num_cpus, "include_dashboard": False} if self.address is None else {}
            ray.init(address=self.address, log_to_driver=False, **here)
        settings = {"num_cpus": self.cpus_per_shard, "num_gpus": self.gpus_per_shard, "max_retries": self.max_retries}

        @ray.remote(**settings)
        def call(item: Any) -> Any:
            return function(item)

        waiting = [call.remote(item) for item in items]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
