"""What a person sees of a result: blocks that the console prints and a notebook shows, each in its own way.

A result says once what there is to see of it (:meth:`Shown.blocks`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from typing import TYPE_CHECKING, Any, Self

from gigacli.errors import InvalidInput
from gigacli.units import figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 100  # of a table in a notebook, which keeps what it shows


@dataclass(frozen=True)
class Figures:
    """The figures of a result by name, one a line."""

    values: list[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table to show."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    @property
    def right(self) -> list[bool]:
        """Whether each column is aligned to the right: all but the first, where they hold figures."""
        return [i > 0 and all(_looks_like_figure(row[i]) for row in self.rows) for i in range(len(self.columns))]


@dataclass(frozen=True)
class ToRun:
    """A command line to run, and what for."""

    why: str
    command: str

    def __str__(self) -> str:
        return f"{self.why}: {self.command}"


Drawings = dict[str, Callable[[], "Figure"]]
"""What draws each figure, by its name."""

Block = Figures | Table | ToRun | str
"""Text is a sentence of its own."""


class Shown:
    """A notebook shows it as a table."""

    def blocks(self) -> Iterator[Block]:
        """What a person sees: figures, then the tables, notes and files that it has."""
        yield figures_of(self)
        if hasattr(self, "table"):
            yield from some(*self.table)
        failures, reasons = getattr(self, "failures", {}), getattr(self, "reasons", {})
        yield from some("failures", ("slide", "reason"), failures.items())
        yield from some("slides without tiles", ("slide", "reason"), getattr(self, "why_empty", {}).items())
        yield from some("remarks", ("slide", "remark"), getattr(self, "remarks", {}).items())
        if len(lowest := getattr(self, "lowest", [])) > 1:
            yield from some("fewest tiles", ("slide", "tiles"), lowest)
        if len(reasons) < len(failures):
            yield from some("failures by reason", ("reason", "slides"), reasons.items())
        yield from getattr(self, "notes", ())
        yield from (f"wrote {file}" for file in getattr(self, "files", ()))

    def _repr_html_(self) -> str:
        words = re.findall("[A-Z][a-z]*", type(self).__name__.removesuffix("Summary"))
        return html(self.blocks(), title="-".join(words).lower(), most_rows=MOST_ROWS)


class Drawn(Shown):
    """It can be drawn: ``figures`` names what there is, and ``figure(name)`` gives a figure that a notebook shows."""

    def drawn_by(self, figures: Callable[[], Drawings]) -> Self:
        """Remember what gives its figures."""
        object.__setattr__(self, "_figures", figures)  # no field: they are no part of what was found
        return self

    @property
    def figures(self) -> list[str]:
        """Names of the figures there are."""
        return list(self._drawings())

    def figure(self, name: str | None = None) -> Figure:
        """Draw a figure: of matplotlib, and shown by a notebook as it is.

        Args:
            name: One of `figures`; default: the first.

        Raises:
            InvalidInput: There is none of that name.
        """
        drawings = self._drawings()
        if not drawings or name not in (None, *drawings):
            what = "no figures" if name is None else f"no figure {name!r}"
            raise InvalidInput(f"this result has {what}", f"it has: {', '.join(drawings)}" if drawings else "")
        return drawings[name or next(iter(drawings))]()

    def _drawings(self) -> Drawings:
        return getattr(self, "_figures", dict)()


def figures_of(result: Any) -> Figures:
    """The fields of a dataclass as text; lists are left to tables of their own."""
    values = [(field.name, getattr(result, field.name)) for field in fields(result)]
    kept = [(k, figure_text(k, v)) for k, v in values if not isinstance(v, dict | list | tuple) and v is not None]
    return Figures([(name.replace("_", " "), text) for name, text in kept if text])


def some(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[Table]:
    """Give a table, or nothing where it has no rows."""
    if texts := [tuple(map(str, row)) for row in rows]:
        yield Table(title, tuple(columns), texts)


def _looks_like_figure(text: str) -> bool:
    return text == "" or (text[0] in "+-.0123456789" and all(c in "+-.,0123456789 ±%e/" for c in text))


# ---------------------------------------------------------------------- in a notebook

_CELL = ' style="text-align:{}"'
_CAPTION = '<caption style="caption-side:top;text-align:left;color:inherit"><b>{}</b></caption>'


def html(blocks: Iterable[Block], *, title: str = "", most_rows: int | None = None) -> str:
    """Blocks as HTML in the notebook's own colours, light or dark; everything in them is escaped.

    Args:
        blocks: What to show.
        title: Stands above figures.
        most_rows: Rows of a table that are shown; None: all.
    """
    parts, lines = [], list[str]()
    for block in (*blocks, None):
        if isinstance(block, str | ToRun):
            lines.append(_line(block))
            continue
        if lines:
            parts.append(f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>")
            lines = []
        if isinstance(block, Figures):
            parts.append(_table(title, (), block.values, right=[False, False]))
        elif block is not None:
            shown = block.rows[:most_rows]
            rest = f"and {len(block.rows) - len(shown):,} more" if len(shown) < len(block.rows) else ""
            parts.append(_table(block.title, block.columns, shown, right=block.right, rest=rest))
    return f"<div>{''.join(parts)}</div>"


def _line(block: str | ToRun) -> str:
    if isinstance(block, ToRun):
        return f"{escape(block.why)}: <code>{escape(block.command)}</code>"
    doubt = "warning: "
    return f"<b>{doubt}</b>{escape(block.removeprefix(doubt))}" if block.startswith(doubt) else escape(block)


def _table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[bool], rest: str = ""
) -> str:
    look = [_CELL.format("right" if one else "left") for one in right]

    def row(cells: Sequence[str], tag: str) -> str:
        inner = (f"<{tag}{style}>{escape(cell)}</{tag}>" for cell, style in zip(cells, look, strict=True))
        return f"<tr>{''.join(inner)}</tr>"

    head = f"<thead>{row(columns, 'th')}</thead>" if columns else ""
    body = "".join(row(cells, "td") for cells in rows)
    body += f'<tr><td colspan="{len(look)}">{rest}</td></tr>' if rest else ""
    return f"<table>{_CAPTION.format(escape(title)) if title else ''}{head}<tbody>{body}</tbody></table>"
