"""How a stage reports progress, whoever shows it.

Stages take a :class:`Progress`; the console implements one that draws, tests one that records.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives what a running stage has to say."""

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """A task of `total` steps begins, `done` of which are already there."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """`steps` more are done; `note` is a short figure to show beside the bar (a loss, a rate)."""

    def say(self, message: str) -> None:
        """Something worth one line: a choice that was made, a slide that failed."""


class Silent:
    """Says nothing."""

    def __repr__(self) -> str:
        return "SILENT"

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """Ignore."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Ignore."""

    def say(self, message: str) -> None:
        """Ignore."""


SILENT = Silent()
