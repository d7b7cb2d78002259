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
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from gigacli.cli.command import in_flags
from gigacli.cli.streams import PatientConsole, write_nowhere
from gigacli.cli.units import bytes_text, figure_text
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


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, folded: bool = True) -> None:
    """Show a table on standard output; columns after the first are aligned to the right where they hold figures.

    Cells that the screen has no room for are folded; without that nothing is, and columns stand closer.
    """
    look: dict[str, Any] = {"title_justify": "left", "title_style": "bold", "pad_edge": False}
    table = Table(title=title or None, box=SIMPLE_HEAD, collapse_padding=not folded, show_edge=folded, **look)
    for i, column in enumerate(columns):
        figures = all(isinstance(row[i], int | float) or _looks_like_figure(str(row[i])) for row in rows)
        table.add_column(column, justify="right" if figures and i else "left", overflow="fold", no_wrap=not folded)
    for row in rows:
        table.add_row(*(escape(_visible(str(value))) for value in row))
    out.print(table)


def _looks_like_figure(text: str) -> bool:
    return text == "" or (text[0] in "+-.0123456789" and all(c in "+-.,0123456789 ±%e/" for c in text))


def show_result(title: str, result: Any) -> None:
    """Show the result of a command: its figures, then the tables, notes and files that it has."""
    _show_figures(title, result)
    if hasattr(result, "table"):
        _show_some(*result.table)
    failures, reasons = getattr(result, "failures", {}), getattr(result, "reasons", {})
    _show_some("failures", ("slide", "reason"), failures.items())
    _show_some("slides without tiles", ("slide", "reason"), getattr(result, "why_empty", {}).items())
    _show_some("remarks", ("slide", "remark"), getattr(result, "remarks", {}).items())
    if len(lowest := getattr(result, "lowest", [])) > 1:
        show_table("fewest tiles", ("slide", "tiles"), lowest)
    if len(reasons) < len(failures):
        _show_some("failures by reason", ("reason", "slides"), reasons.items())
    for line in [*getattr(result, "notes", ()), *(f"wrote {file}" for file in getattr(result, "files", ()))]:
        say(line, to_out=True)


def _show_some(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Show a table, or nothing where it has no rows."""
    if rows := list(rows):
        show_table(title, columns, rows)


def _show_figures(title: str, summary: Any) -> None:
    """Show a summary, one field a line; lists are left to tables of their own."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    for name, value in vars(summary).items():
        if not isinstance(value, dict | list | tuple) and value is not None and (text := figure_text(name, value)):
            grid.add_row(name.replace("_", " "), escape(_visible(text)))
    out.print(f"[bold]{title}[/bold]")
    out.print(grid)


def show_scores(result: Any) -> None:
    """Show what a probe found, and what to keep in mind of it."""
    from gigacli.probing import shown

    for _, found in shown.tables(result, wide=result.wide):
        for table in found:
            show_table(table.title, table.columns, table.rows, folded=result.wide)
    for line in shown.lines(result):
        say(line)


def show_problems(report: Any) -> None:
    """Show what a validation found."""
    _show_some("problems", ("rule", "path", "what"), ((p.rule, p.path, p.message) for p in report.problems))
    for line in report.unfinished:
        say(f"unfinished: {line}", to_out=True)
    say(f"{report.store}: {len(report.problems)} problems; checked {', '.join(report.checked)}", to_out=True)


def show_packed(found: Any) -> None:
    """Show what a packing did."""
    _show_some("", ("group", "packed now", "left"), ((g.path, g.packed, g.left) for g in found.groups))
    say(
        f"{found.store}: {found.files_before:,} files before, {found.files:,} now, in {found.seconds:.0f} s",
        to_out=True,
    )


def show_info(found: Any) -> None:
    """Show what a store holds: groups and their state, slides on request, failures, what to run next."""
    patients = f", {found.patients} patients" if found.patients else ""
    tiles = f", {found.tiles:,} tiles" if found.tiles else ""
    size = "" if found.bytes is None else f", {bytes_text(found.bytes)}"
    say(f"{found.url}: format {found.version}, {found.slides} slides{patients}{tiles}{size}", to_out=True)
    sizes = ["" if g.bytes is None else bytes_text(g.bytes) for g in found.groups]
    rows = [
        (g.path, g.stage, f"{g.done}/{g.total}", g.failed, size) for g, size in zip(found.groups, sizes, strict=True)
    ]
    _show_some("", ("group", "written by", "done", "failed", "size"), rows)
    for group in found.groups:
        if group.stale:
            say(f"{group.path} is stale: {'; '.join(group.stale)}", to_out=True)
        if group.remark:
            say(f"{group.path}: {group.remark}", to_out=True)
    if packed := [f"{g.path} ({g.unpacked})" if g.unpacked else g.path for g in found.groups if g.unpacked is not None]:
        say(f"packed (slides that are not yet): {', '.join(packed)}", to_out=True)
    slides = (
        (s.slide, s.patient, "" if s.tiles is None else s.tiles, ", ".join(s.done), ", ".join(s.failures))
        for s in found.per_slide
    )
    _show_some("slides", ("slide", "patient", "tiles", "done in", "failed in"), slides)
    title = f"failures ({len(found.failures)} of {found.failed})"
    _show_some(title, ("slide", "stage", "reason"), ((f.slide, f.stage, f.reason) for f in found.failures))
    for command in found.retry:
        say(f"to try the slides that failed again: {command}", to_out=True)
    if found.next:
        say(f"next: {found.next}", to_out=True)


def show_checks(report: Any) -> None:
    """Show what the doctor found, and what to do about it."""
    say(f"giga {report.version}, Python {report.python}, {report.system}", to_out=True)
    there = [f"{name} {version}" for name, version in report.packages.items() if version is not None]
    say(", ".join(there), to_out=True)
    show_table("", ("check", "state", "found"), [(c.name, c.state, c.found) for c in report.checks])
    for check in report.checks:
        if check.advice:
            say(f"{check.name}: {check.advice}", to_out=True)
    say("giga works here" if not report.broken else f"{report.broken} of the checks failed", to_out=True)
