"""Slides of a store as a user names them: in a file, by a pattern, or one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.labels import match
from gigacli.tables import SYNONYMS, differ_in_capitals, read_columns, read_text, require_column

TABLES = (".csv", ".tsv", ".xlsx", ".xlsm", ".parquet")
WILD = "*?["
SHOWN = 5


def named_slides(ids: Sequence[str], wanted: str | Path | Sequence[str], *, store: str) -> NDArray[np.int64]:
    """Rows (n,) of the slides that are named, ascending.

    Args:
        ids: Of the slides of the store.
        wanted: A table with a column slide_id, a file with an id a line, a pattern of ids such as ``TCGA-A1-*``, or
            the ids themselves. Folders and extensions of slide files are taken off where that finds a slide.
        store: What messages call the store.

    Raises:
        NotFound: There is no such file, some of the slides are not there, or no id matches the pattern.
        InvalidInput: A slide is named twice, none is named, or the table cannot be used.
    """
    said, names = ("the list", list(wanted)) if not isinstance(wanted, str | Path) else (str(wanted), [])
    if isinstance(wanted, str | Path):
        if not Path(wanted).is_file() and any(c in said for c in WILD):
            names = [name for name in ids if fnmatchcase(name, said)]
            if not names:
                raise NotFound(f"no slide of {store} matches {said}", f"ids there look like {ids[0]!r}")
        else:
            names = _read(Path(wanted))
    if not names:
        raise InvalidInput(f"{said} names no slide", "it should have an id a line, or a column slide_id")
    rows = match(names, ids)
    if missing := [name for name, row in zip(names, rows.tolist(), strict=True) if row < 0]:
        text = f"{len(missing)} of the {len(names)} slides of {said} are not in {store}: {_listed(missing)}"
        alike = differ_in_capitals(missing, ids)
        raise NotFound(text + (f"; {alike}" if alike else ""), f"giga info {store} --slides lists those it has")
    if twice := [ids[row] for row, times in Counter(rows.tolist()).items() if times > 1]:
        raise InvalidInput(f"{said} names {len(twice)} slides more than once: {_listed(twice)}", "name each once")
    return np.sort(rows)


def _read(path: Path) -> list[str]:
    """The ids in a file."""
    if not path.is_file():
        raise NotFound(f"there is no file {path}, and it is no pattern of ids", "a pattern has a * in it: 'TCGA-A1-*'")
    if path.suffix.lower() not in TABLES:
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        headed = lines[:1] and lines[0].casefold() in ("slide_id", *SYNONYMS["slide_id"])
        return lines[1:] if headed else lines
    cells = read_columns(path)
    return [name for name in cells[require_column(cells, "slide_id", path=path)] if name]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + " ..." * (len(names) > SHOWN)
