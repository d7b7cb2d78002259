"""Progress where no command line runs: in a notebook, by itself; in a program, on request.

In a notebook it is a ``<progress>`` element that IPython replaces as it grows. That needs nothing beyond the kernel,
keeps the notebook's own colours, and what is left of it, one line, stays readable where a notebook is only shown: the
bars of rich and tqdm are widgets there, which need ipywidgets and are gone from a saved notebook.
"""

from __future__ import annotations

import time
from datetime import timedelta
from html import escape
from importlib import import_module
from typing import Any

from gigacli.progress import is_notebook, listen, unheard

EVERY_S = 0.2  # between two pictures of a bar
MOST_LINES = 20  # of messages that stay in sight


def show_progress(*, quiet: bool = False) -> None:
    """Show the progress of verbs and tools from now on, and what they say: on standard error, in a notebook below it.

    A notebook does so by itself.

    Args:
        quiet: Show nothing from now on.
    """
    from gigacli.cli.console import ConsoleProgress

    listen(unheard if quiet else NotebookProgress if is_notebook() else ConsoleProgress)


class NotebookProgress:
    """Progress of one call below its cell: messages, tasks that are over, and a bar of the one at work."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._lines: list[str] = []
        self._left_out = 0
        self._what, self._total, self._done, self._note = "", 0, 0, ""
        self._began = self._drawn = 0.0
        self._found = 0

    def __enter__(self) -> NotebookProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        if self._handle is not None:
            self._draw()

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """Begin a task; an earlier one is over, and stays as a line."""
        self._end()
        self._what, self._total, self._done, self._note = what, total, done, ""
        self._began, self._found = time.monotonic(), done
        if done < total or self._handle is not None:
            self._draw()

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps as done."""
        self._done += steps
        self._note = note or self._note
        if time.monotonic() - self._drawn > EVERY_S:
            self._draw()

    def say(self, message: str) -> None:
        """Show one line of text."""
        self._add(message)
        self._draw()

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._left_out += len(self._lines) > MOST_LINES
        del self._lines[:-MOST_LINES]

    def _end(self) -> None:
        """Turn the bar into a line, where there was anything to do."""
        if self._what and self._done > self._found:
            self._add(f"{self._text()}, {timedelta(seconds=round(time.monotonic() - self._began))}")
        self._what = ""

    def _text(self) -> str:
        return f"{self._what}: {self._done:,}/{self._total:,} {self._note}".rstrip()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        lines = [f"... {self._left_out} lines before these"] * bool(self._left_out) + self._lines
        parts = [f"<div>{escape(line)}</div>" for line in lines]
        if self._what:
            lines = [*lines, self._text()]
            share = f'value="{self._done}" max="{max(1, self._total)}"'
            parts.append(f"<div><progress {share}></progress> {escape(self._text() + self._time_left())}</div>")
        shown = {"text/plain": "\n".join(lines), "text/html": "".join(parts)}
        if self._handle is None:
            self._handle = import_module("IPython.display").display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)

    def _time_left(self) -> str:
        made, seconds = self._done - self._found, time.monotonic() - self._began
        left = round(seconds / made * (self._total - self._done)) if made > 0 else 0
        return f", {timedelta(seconds=left)} left" if left else ""
