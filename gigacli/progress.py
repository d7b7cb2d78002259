"""Progress and results of a stage: it takes a :class:`Progress`, which the console draws, and returns a summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast

from gigacli.shown import Shown

P = ParamSpec("P")
R = TypeVar("R")


class Progress(Protocol):
    """Receives the progress of a running stage."""

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """Begin a task of `total` steps, of which `done` are already there."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count `steps` more as done; `note` is a short figure to show beside the bar (a loss, a rate)."""

    def say(self, message: str) -> None:
        """Show a message of one line: a choice that was made, a slide that failed."""


class Silent:
    """Ignores progress."""

    def __repr__(self) -> str:
        return "SILENT"

    def _ignore(self, *_: object, **__: object) -> None:
        pass

    start = advance = say = _ignore


SILENT = Silent()

Listener = Callable[[], AbstractContextManager[Progress]]
"""Makes what hears of one call, and is over with it."""


def unheard() -> AbstractContextManager[Progress]:
    """Nobody listens."""
    return nullcontext(SILENT)


_listener: Listener = unheard


def listen(listener: Listener) -> None:
    """Let calls that are given no progress be heard from now on."""
    global _listener
    _listener = listener


def audible(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that takes `progress`: of calls that are given none, whoever listens hears."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if "progress" in kwargs:
            return function(*args, **kwargs)
        with _listener() as progress:
            return cast(Any, function)(*args, **kwargs, progress=progress)

    return call


def is_notebook() -> bool:
    """Whether this is the kernel of a notebook, and not a terminal or a program."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@dataclass(frozen=True, kw_only=True)
class Summary(Shown):
    """Figures of every verb that writes.

    Attributes:
        slides: Slides of this run: of this shard and ready for it, or trained on.
        done: Slides written now; 1 where something was trained now.
        skipped: Slides that were there; 1 where what is trained was there already.
        failed: Slides that could not be registered or read; of train and embed 0.
        seconds: Time it took.
    """

    slides: int
    done: int
    skipped: int
    failed: int = 0
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainingSummary(Summary):
    """Figures of every training.

    Attributes:
        epochs: Epochs in all.
        steps: Steps in all.
        resumed_at: Epochs a checkpoint had finished, 0 for a fresh start.
        initial_weights: Where it started from; of a model that was there already "".
        loss: Mean loss of the last epoch.
        chance: Loss of vectors that tell nothing.
        rank: Effective rank of the vectors of the last batch.
        warning: What is wrong with the result, in words; "" where nothing is.
    """

    epochs: int
    steps: int
    resumed_at: int
    initial_weights: str
    loss: float
    chance: float
    rank: float
    warning: str


class Throughput:
    """Speed of encoding, from the second block of tiles on: the first one compiles and waits for the first slide.

    Args:
        waited_s: Gives the seconds that the encoder has waited for tiles so far.

    Attributes:
        made: Encodings so far.
        read: Tiles read so far.
    """

    def __init__(self, waited_s: Callable[[], float]) -> None:
        self._waited_s, self._blocks = waited_s, 0
        self.made = self.read = 0
        self._start = self._first = (0, time.monotonic(), 0.0)

    def add(self, *, made: int, read: int) -> None:
        """Count a block."""
        self.made, self.read, self._blocks = self.made + made, self.read + read, self._blocks + 1
        if self._blocks == 1:
            self._first = (self.made, time.monotonic(), self._waited_s())
        elif self._blocks == 2:
            self._start = self._first

    @property
    def rate(self) -> float:
        """Encodings per second."""
        return (self.made - self._start[0]) / self._seconds

    @property
    def waited(self) -> float:
        """Share of the time that the encoder waited for tiles."""
        return (self._waited_s() - self._start[2]) / self._seconds

    @property
    def note(self) -> str:
        """Text for the progress line, from the first block on."""
        return f"tiles, {self.rate:.0f} encodings/s, encoder waited {self.waited:.0%}"

    @property
    def _seconds(self) -> float:
        return max(1e-9, time.monotonic() - self._start[1])
