"""How many threads to use, and one that writes."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


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
