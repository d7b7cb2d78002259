"""The table of slides without a usable resolution, which a person completes: ``STORE.missing-mpp.csv``.

What a person wrote is never replaced: only a file that is, to the byte, a table as giga writes it and with nothing
filled in. Otherwise the file is pointed at, and slides that it does not name go into another.
"""

from __future__ import annotations

import csv as csv_format
import io
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from gigacli.errors import InvalidInput
from gigacli.files import new_file
from gigacli.store.address import is_remote
from gigacli.store.table import SlideTable
from gigacli.tables import find_column, read_columns

COLUMNS = ("path", "slide_id", "mpp")


def ask_for_mpp(url: str, table: SlideTable, *, given: Path | None = None) -> list[str]:
    """Write a table of the slides without a usable resolution, ready to be completed.

    It lies beside a local store, and of a remote one in the current folder: it names files of this machine.

    Args:
        url: Of the store.
        table: The slide table.
        given: The table of slides that this run was given.

    Returns:
        What to do with it, in words; nothing where nothing is to be completed.
    """
    missing = [row for row in table.rows if row.size_px[0] > 0 and not row.usable]
    if not missing:
        return []
    first = Path(PurePosixPath(url).name if is_remote(url) else url).with_suffix(".missing-mpp.csv")
    said: list[str] = []
    for number in range(1, 1000):
        path = first if number == 1 else first.with_name(f"{first.stem}-{number}.csv")
        command = f"giga tile {shlex.quote(url)} --csv {shlex.quote(str(path))}"
        if not path.exists() or path.read_bytes() == _blank(_rows_of(path)).encode():
            with new_file(path) as partial:
                partial.write_bytes(_blank([(row.path, row.id) for row in missing]).encode())
            what = "the slides without a usable resolution" if number == 1 else "the others"
            return [*said, f"{path} lists {what}; fill in its column mpp, then run: {command}"]
        named = _answers(path)
        asked = [row for row in missing if row.id in named]
        filled = sum(bool(named[row.id]) for row in asked)
        if given is not None and given.absolute() == path.absolute():
            said.append(f"{path} was read and is left as it is; {len(asked)} of its slides still lack a resolution")
        elif filled:
            said.append(f"{path} is filled in for {filled} slides without a resolution; take it: {command}")
        elif asked:
            said.append(
                f"{path} names {len(asked)} slides without a resolution; fill in its column mpp, then: {command}"
            )
        else:
            said.append(f"{path} is not as giga wrote it, and is left as it is")
        missing = [row for row in missing if row.id not in named]
        if not missing:
            return said
    return said


def _blank(rows: Sequence[tuple[str, str]]) -> str:
    """The table with nothing filled in."""
    text = io.StringIO(newline="")
    writer = csv_format.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([path, slide_id, ""] for path, slide_id in rows)
    return text.getvalue()


def _rows_of(path: Path) -> list[tuple[str, str]]:
    """Path and id per row of what may be a table of giga."""
    try:
        cells = list(csv_format.reader(io.StringIO(path.read_bytes().decode(), newline="")))
    except (UnicodeDecodeError, csv_format.Error):
        return []
    return [(row[0], row[1]) for row in cells[1:] if len(row) == len(COLUMNS)]


def _answers(path: Path) -> dict[str, str]:
    """Resolution, as text, of the slides that a person's table names; nothing of what is no such table."""
    try:
        cells = read_columns(path)
        ids, mpp = (find_column(cells, name, path=path) for name in ("slide_id", "mpp"))
    except InvalidInput:
        return {}
    return dict(zip(cells[ids], cells[mpp], strict=True)) if ids and mpp else {}
