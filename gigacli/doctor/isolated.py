"""Function calls in a process of their own: a library that kills its process does not take the doctor with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """The result of a call, or why there is none."""

    value: Any  # what the function returned, None where it did not
    error: str = ""  # why it did not, "" where it did


class IsolatedCall:
    """A call that runs in a fresh process from now on, beside others; what it takes and returns is pickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._answer, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(theirs, function, arguments), daemon=True)
        self._process.start()
        theirs.close()  # so that reading ends when the process does

    def outcome(self, *, timeout_s: float) -> Outcome:
        """Wait for the result; a process that does not answer in time is ended."""
        try:
            if not self._answer.poll(timeout_s):
                return Outcome(None, f"no answer in {timeout_s:g} s")
            value, error = self._answer.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode or 0
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return Outcome(None, f"its process {how}")
        finally:
            self._process.kill()
            self._process.join()
        return Outcome(value, error)


def _run(answer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who waits for the answer ends this process
    os.dup2(2, 1)  # what libraries say as they load is no part of the report
    try:
        result = (function(*arguments), "")
    except Exception as error:
        result = (None, f"{type(error).__name__}: {error}")
    answer.send(result)
