"""Doing things side by side: threads, one that writes, and the slides of a stage as shards over a Dask cluster."""

from __future__ import annotations

import os
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gigacli.errors import GigaError, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gigacli.progress import Progress

SHARDS_PER_THREAD = 4
"""Parts per thread of the cluster: few enough that starting one does not count, enough to level out large slides."""

CONNECT_S = 30


def worker_count(asked: int | None) -> int:
    """What was asked for, else the processors this process may use."""
    if asked is not None:
        return asked
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Writer:
    """Writes one slide while the next one is encoded; what goes wrong there is raised here."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._settle()
        finally:
            self._pool.shutdown()

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Run it once what was submitted before is through."""
        self._settle()
        self._pending = self._pool.submit(work, *arguments)

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def over_dask(
    address: str,
    stage: Callable[..., Any],
    store: str,
    *,
    slides: int,
    options: dict[str, Any],
    progress: Progress,
) -> list[Any]:
    """Run a stage on every slide, a shard per task; the summaries of the shards.

    A worker that dies takes no slide with it: its shard runs again elsewhere and skips what was done. The store must
    have one address for all workers (a shared file system, or a URL that each has its own credentials for: none are
    sent), and they must see the slides under the same paths.

    Args:
        address: Of the scheduler, such as ``tcp://10.0.0.1:8786``.
        stage: ``giga.bank`` or ``giga.tile``.
        store: The store; its groups have been begun.
        slides: How many there are.
        options: Of the stage; ``shard`` is added.
        progress: Who listens.

    Raises:
        InvalidInput: The store is in the memory of this process.
        NotFound: Dask is not installed, or no scheduler answers there.
        GigaError: A shard failed as a whole.
    """
    if store.startswith("memory://"):
        raise InvalidInput(
            f"{store} is in the memory of this process, where no worker sees it", "use a folder or s3://"
        )
    try:
        from distributed import Client, as_completed
    except ModuleNotFoundError:
        raise NotFound("--dask needs Dask", "run: pip install 'gigacli[dask]'") from None
    _knock(address)
    with Client(address, timeout=CONNECT_S, set_as_default=False) as client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise NotFound(f"the Dask scheduler at {address} has no workers", f"start some: dask worker {address}")
        parts = max(1, min(slides, SHARDS_PER_THREAD * threads))
        progress.say(f"{parts} shards on {threads} threads of the Dask cluster at {address}")
        progress.start(stage.__name__, parts)
        shards = [f"{i + 1}/{parts}" for i in range(parts)]
        tasks = [client.submit(stage, store, **options, shard=shard, pure=False) for shard in shards]
        try:
            return list(_results(as_completed(tasks, loop=client.loop), progress))
        finally:  # of an error or an interruption, the rest
            client.cancel(tasks)


def _knock(address: str) -> None:
    """See whether anyone is there: Dask's own client takes a minute to give up, and as long to go."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        socket.create_connection((parts.hostname, parts.port or 8786), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise NotFound(f"no Dask scheduler answers at {address}: {error}", "start one: dask scheduler") from error


def _results(done: Any, progress: Progress) -> Iterator[Any]:
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
