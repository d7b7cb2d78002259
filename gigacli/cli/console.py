"""Everything a person sees: progress, tables, errors. The only file that prints.

Results and tables go to standard output, progress and messages to standard error, so that output can be
piped. With ``--json`` standard output holds one JSON object and nothing else.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from gigacli import shown
from gigacli.cli.command import in_flags
from gigacli.cli.streams import PatientConsole, write_nowhere
from gigacli.errors import GigaError

PLAIN_LINE_SECONDS = 10.0  # at most one progress line in this time where standard error is no terminal
PIPE_WIDTH = 160  # columns of a table that goes to a file or a pipe, where nothing needs to fit a screen


out = PatientConsole(soft_wrap=True)
if not out.is_terminal:
    out = PatientConsole(soft_wrap=True, width=PIPE_WIDTH)
err = PatientConsole(stderr=True, soft_wrap=True)


@contextmanager
def beside_output(*, taken: bool) -> Iterator[None]:
    """Show results on standard error while standard output is taken."""
    global out
    before = out
    out = err if taken else out
    try:
        yield
    finally:
        out = before


_flags: Mapping[str, str] = {}
_quiet = False


@contextmanager
def speaking_of(flags: Mapping[str, str], *, quiet: bool = False) -> Iterator[None]:
    """Show texts in the words of a running command: parameters by their flags.

    Args:
        flags: Flag of every parameter.
        quiet: Show no progress and no messages, nor those of commands that this one runs.
    """
    global _flags, _quiet
    before = _flags, _quiet
    _flags, _quiet = flags, quiet or _quiet
    try:
        yield
    finally:
        _flags, _quiet = before


def _visible(text: str) -> str:
    """Return a text in the words of the command line, without control characters.

    Names come from files and tables, and a terminal obeys what it is shown.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in in_flags(text, _flags))


class ConsoleProgress:
    """Progress on standard error: a bar on a terminal, plain lines elsewhere, nothing with ``quiet``.

    Ctrl-C is an exception wherever the program happens to be. In a callback of the garbage collector Python prints and
    drops it; what was asked for is remembered here, and the next step of the task raises it again.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet or _quiet
        self._bar: RichProgress | None = None
        self._task: Any = None
        self._what, self._total, self._done, self._note = "", 0, 0, ""
        self._printed, self._began, self._found = 0.0, 0.0, 0
        self._interrupted = self._listens = False

    def __enter__(self) -> ConsoleProgress:
        mine = threading.current_thread() is threading.main_thread()
        self._listens = mine and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._listens:
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        self._stop()

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        raise KeyboardInterrupt

    def start(self, what: str, total: int, *, done: int = 0) -> None:
        """Begin a task; an earlier one is over."""
        self._stop()
        self._what, self._total, self._done, self._note = _visible(what), total, done, ""
        self._began, self._found = time.monotonic(), done
        if self.quiet or not err.is_terminal:
            self._printed = time.monotonic()
            return
        name, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        columns = (name, BarColumn(), MofNCompleteColumn(), note, TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = RichProgress(*columns, console=err, transient=True)
        self._task = self._bar.add_task(escape(self._what), total=total, completed=done, note="")
        self._bar.start()

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Count steps as done."""
        if self._interrupted:
            raise KeyboardInterrupt
        self._done += steps
        self._note = note or self._note
        if self._bar is not None:
            self._bar.update(self._task, advance=steps, note=escape(_visible(self._note)))
        elif not self.quiet and time.monotonic() - self._printed > PLAIN_LINE_SECONDS:
            self._printed = time.monotonic()
            line = f"{self._what}: {self._done}/{self._total} {_visible(self._note)}".rstrip() + self._time_left()
            err.print(line, markup=False, highlight=False)

    def say(self, message: str) -> None:
        """Show one line of text."""
        if not self.quiet:
            err.print(_visible(message), markup=False, highlight=False)

    def _time_left(self) -> str:
        """Say how long it takes at the speed so far, h:mm:ss; "" before there is one."""
        made, seconds = self._done - self._found, time.monotonic() - self._began
        if made <= 0:
            return ""
        return f", {timedelta(seconds=round(seconds / made * (self._total - self._done)))} left"

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def show_error(error: GigaError) -> None:
    """Show what was wrong, and what to do next."""
    text, hint = escape(_visible(error.message)), escape(_visible(error.hint))
    text += f"\n[bold]{hint}[/bold]" if hint else ""
    if err.is_terminal:
        err.print(Panel(text, title="error", border_style="red", title_align="left"))
    else:
        err.print(f"error: {text}", highlight=False)


def say(message: str, *, to_out: bool = False) -> None:
    """Show one line of text, on standard error unless it is a result."""
    (out if to_out else err).print(_visible(message), markup=False, highlight=False)


def show_json(value: Any) -> None:
    """Write one JSON object to standard output; values that are not numbers are null.

    What is not printable, such as what commands a terminal or turns the direction of writing, is escaped.
    """
    text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    try:
        out.file.write(text + "\n")
        out.file.flush()
    except BrokenPipeError:
        write_nowhere(out.file)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        value = value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, folded: bool = True) -> None:
    """Show a table on standard output; columns after the first are aligned to the right where they hold figures.

    Cells that the screen has no room for are folded; without that nothing is, and columns stand closer.
    """
    look: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "pad_edge": False}
    table = Table(title=title or None, box=SIMPLE_HEAD, collapse_padding=not folded, show_edge=folded, **look)
    for column, right in zip(columns, shown.Table(title, tuple(columns), list(map(tuple, rows))).right, strict=True):
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=not folded)
    for row in rows:
        table.add_row(*(escape(_visible(value)) for value in row))
    out.print(table)


def show_result(title: str, result: shown.Shown) -> None:
    """Show the result of a command: its figures under a title, its tables, and what else there is to say."""
    for block in result.blocks():
        if isinstance(block, shown.Figures):
            _show_figures(title, block)
        elif isinstance(block, shown.Table):
            show_table(block.title, block.columns, block.rows)
        else:
            say(str(block), to_out=True)


def _show_figures(title: str, figures: shown.Figures) -> None:
    """Show figures, one a line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    for name, text in figures.values:
        grid.add_row(name, escape(_visible(text)))
    out.print(f"[bold]{title}[/bold]")
    out.print(grid)


def show_scores(result: Any) -> None:
    """Show what a probe found, and what to keep in mind of it."""
    from gigacli.probing.shown import lines, tables

    for _, found in tables(result, wide=result.wide):
        for table in found:
            show_table(table.title, table.columns, table.rows, folded=result.wide)
    for line in lines(result):
        say(line)
