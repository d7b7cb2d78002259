"""Where an export comes from: the recipe of its group, and the slides it is of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import InvalidInput
from gigacli.store.groups import Group, SlideGroup
from gigacli.store.recipe import CREATED_BY
from gigacli.store.table import SlideRow

Rows = NDArray[np.int64]  # (n,) rows of the slide table


def note_of(group: Group) -> dict[str, Any]:
    """Note of where an export comes from; the same for every export of the same results."""
    stale = {"stale": reasons} if (reasons := group.stale) else {}
    return {"created_by": CREATED_BY, "group": group.path, "recipe": vars(group.recipe), **stale}


def slides_of(group: SlideGroup, rows: Rows) -> list[SlideRow]:
    """Rows of the slide table."""
    return [group.store.slides[row] for row in rows.tolist()]


def slides_for_files(group: SlideGroup, rows: Rows) -> list[SlideRow]:
    """Rows of the slide table of slides whose ids become names of files.

    Raises:
        InvalidInput: An id cannot.
    """
    slides = slides_of(group, rows)
    for slide in slides:
        if slide.id in (".", "..") or "/" in slide.id or "\0" in slide.id:
            raise InvalidInput(
                f"slide {slide.id!r} cannot give a file its name",
                "export a table of all slides: `format` csv, parquet or h5ad",
            )
    return slides
