"""The tables of a probe as files to paste: Markdown, LaTeX and HTML, every column."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from gigacli.files import new_file
from gigacli.probing.results import ProbeResult
from gigacli.probing.shown import lines, tables
from gigacli.shown import Table, html

LATEX: Final = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)
"""What letters that mean something to LaTeX are written as."""

TEXT_COLUMNS: Final = 2
"""Columns of names, at the left; the others are figures, at the right."""


def write_tables(folder: Path, result: ProbeResult) -> list[str]:
    """Write scores.md, scores.tex and scores.html, and retrieval.csv where there is such a table; the paths."""
    files = [_write(folder / name, write(result)) for name, write in WRITERS.items()]
    if not result.retrieval:
        return files
    rows = [asdict(row) for row in result.retrieval]
    with new_file(folder / "retrieval.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, list(rows[0]))
        lines.writeheader()
        lines.writerows(rows)
    return [*files, str(folder / "retrieval.csv")]


def _write(path: Path, text: str) -> str:
    with new_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return str(path)


def _tables(result: ProbeResult) -> list[Table]:
    return [table for _, found in tables(result, wide=True) for table in found]


def markdown(result: ProbeResult) -> str:
    """The tables as Markdown, as GitHub reads it."""
    parts = []
    for table in _tables(result):
        rule = ["---"] * TEXT_COLUMNS + ["---:"] * (len(table.columns) - TEXT_COLUMNS)
        rows = [table.columns, rule, *table.rows]
        lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        parts.append("\n".join([table.title, "", *lines]))
    return "\n\n".join(parts)


def latex(result: ProbeResult) -> str:
    """The tables for LaTeX, with the rules of its package booktabs."""
    parts = []
    for table in _tables(result):
        head, *rows = (" & ".join(cell.translate(LATEX) for cell in row) for row in (table.columns, *table.rows))
        columns = "l" * TEXT_COLUMNS + "r" * (len(table.columns) - TEXT_COLUMNS)
        body = [rf"{line} \\" for line in rows]
        parts.append(
            "\n".join(
                [
                    f"% {table.title}",
                    rf"\begin{{tabular}}{{{columns}}}",
                    r"\toprule",
                    rf"{head} \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n\n".join(parts)


def page(result: ProbeResult) -> str:
    """The tables as HTML, and what to keep in mind of them."""
    return html([*_tables(result), *lines(result)])


WRITERS: Final[dict[str, Callable[[ProbeResult], str]]] = {
    "scores.md": markdown,
    "scores.tex": latex,
    "scores.html": page,
}
