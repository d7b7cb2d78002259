"""Slides that a training leaves out, as a table of the user names them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.probing.labels import match
from gigacli.store.table import SlideTable
from gigacli.tables import find_column, read_columns, refuse_missing, require_column


def left_out(slides: SlideTable, table: Path | None, *, allow_missing: bool) -> tuple[NDArray[np.bool_], str]:
    """Find the slides of the store that a table names, by slide or by patient.

    Args:
        slides: The slides of the store.
        table: A table with a column slide_id or patient_id; None names nothing.
        allow_missing: Whether it may name others.

    Returns:
        Which slides are named, bool (slides,); and what is not in the store, in words, "" for nothing.

    Raises:
        NotFound: Some of its slides or patients are not in the store, and that is not allowed.
        InvalidInput: None of them is: that cannot be what was meant.
    """
    found = np.zeros(len(slides), dtype=bool)
    if table is None:
        return found, ""
    cells = read_columns(table)
    column = find_column(cells, "slide_id", path=table)
    if column is not None:
        what, known = "slides", slides.ids
        names = list(dict.fromkeys(name for name in cells[column] if name))
        places = match(names, known)
        found[places[places >= 0]] = True
        missing = [name for name, place in zip(names, places, strict=True) if place < 0]
    else:
        what, known = "patients", [slide.patient for slide in slides.rows]
        names = list(dict.fromkeys(name for name in cells[require_column(cells, "patient_id", path=table)] if name))
        found |= np.isin(np.array(known), names)
        missing = [name for name in names if name not in set(known)]
    said = f"of {len(names)} {what} that {table} names are not in the store"
    text = refuse_missing(missing, among=known, said=said, allow=allow_missing)
    if not found.any():
        raise InvalidInput(
            f"{table} names no slide of the store", f"ids in the store look like {slides.ids[0]!r}; compare them"
        )
    return found, text
