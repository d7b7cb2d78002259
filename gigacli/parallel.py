"""Parallel work: threads, a background writer, and the slides of a stage as shards on a Dask cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from gigacli.errors import GigaError, InvalidInput, NotFound, from_clone
from gigacli.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

DASK_SHARDS_PER_THREAD = 4  # few enough that starting a shard does not count, enough to level out large slides
DASK_TIMEOUT_S = 30


def worker_count(asked: int | None) -> int:
    """Return what was asked for, else the number of processors this process may use."""
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def as_ready(
    work: Callable[[Item], Result], items: Iterable[Item], *, workers: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """Call `work` on every item in threads; yield each item with its result, or its error, in order of completion.

    At most twice as many items as workers are begun and not yet yielded, so that few results are in memory at once.
    An interrupt, or leaving the loop early, lets the calls that run come to their end and drops the others.
    """
    waiting = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                for item in islice(waiting, workers * 2 - len(running)):
                    running[pool.submit(work, item)] = item
                if not running:
                    return
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    yield running.pop(future), future.result() if error is None else error
        finally:
            for future in running:
                future.cancel()


class BackgroundWriter:
    """A thread that writes one slide while the next one is computed; its errors are raised by the next call.

    Use it in a `with` statement, which ends when everything is written.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait()
        finally:
            self._pool.shutdown()

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Call `work(*arguments)` in the thread, after waiting for what was submitted before."""
        self._wait()
        self._pending = self._pool.submit(work, *arguments)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def run_on_dask(
    address: str, stage: Callable[..., Any], store: str, *, slides: int, options: dict[str, Any], progress: Progress
) -> list[Any]:
    """Run a stage on all slides on a Dask cluster, a shard per task; return the summaries of the shards.

    A worker that dies takes no slide with it: its shard runs again elsewhere and skips what was done. The store must
    have one address for all workers (a shared file system, or a URL that each has its own credentials for: none are
    sent), and they must see the slides under the same paths.

    Args:
        address: Address of the scheduler, such as ``tcp://10.0.0.1:8786``.
        stage: ``giga.bank`` or ``giga.tile``.
        store: URL of the store; its groups have been begun.
        slides: Number of slides.
        options: Options of the stage; ``shard`` is added.
        progress: Receives progress.

    Raises:
        InvalidInput: The store is in the memory of this process.
        NotFound: Dask is not installed, or no scheduler answers there.
        GigaError: A shard failed as a whole.
    """
    if store.startswith("memory://"):
        raise InvalidInput(f"{store} is in this process's memory, where no worker sees it", "use a folder or s3://")
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError:
        raise NotFound("`dask` needs Dask", from_clone("dask")) from None
    _check_scheduler(address)
    with Client(address, timeout=DASK_TIMEOUT_S, set_as_default=False) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise NotFound(f"the Dask scheduler at {address} has no workers", f"start some: dask worker {address}")
        parts = max(1, min(slides, DASK_SHARDS_PER_THREAD * threads))
        progress.say(f"{parts} shards on {threads} threads of the Dask cluster at {address}")
        progress.start(stage.__name__, parts)
        shards = [f"{i + 1}/{parts}" for i in range(parts)]
        tasks = [client.submit(stage, store, **options, shard=shard, pure=False) for shard in shards]
        try:
            return list(_dask_results(as_completed(tasks, loop=client.loop), progress))
        finally:  # of an error or an interruption, the rest
            client.cancel(tasks)


def _check_scheduler(address: str) -> None:
    """Refuse an address that nobody answers at: Dask's own client takes a minute to give up, and as long to close."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        socket.create_connection((parts.hostname, parts.port or 8786), timeout=DASK_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise NotFound(f"no Dask scheduler answers at {address}: {error}", "start one: dask scheduler") from error


def _dask_results(done: Any, progress: Progress) -> Iterator[Any]:
    """Yield the summaries of shards as they are done."""
    for task in done:
        try:
            summary = task.result()
        except GigaError:
            raise
        except Exception as error:
            raise GigaError(
                f"a shard failed on the cluster: {type(error).__name__}: {error}",
                "run the same command again: every slide that was finished is kept",
            ) from error
        progress.advance(note=f"{summary.failed} failed" if summary.failed else "")
        yield summary
