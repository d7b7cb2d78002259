"""What a report says about slides: how many, how they differ, what failed, what they look like."""

from __future__ import annotations

import base64
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from gigacli.cohort.registration import file_problem
from gigacli.errors import InvalidInput, kind_of, reason_of
from gigacli.parallel import worker_count
from gigacli.probing.labels import MISSING, match, patients_of
from gigacli.store.bank import tile_grid_of
from gigacli.store.chunks import read_column
from gigacli.store.layout import STAGES
from gigacli.tables import SYNONYMS, find_column, read_columns, require_column, tcga_site
from gigacli.wsi.overlay import draw_grid, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from gigacli.progress import Progress
    from gigacli.store.store import Store
    from gigacli.store.table import SlideRow

THUMBNAIL_PX = 320
QUALITY = 78
MOST_GROUPS = 0.5
"""A column of the labels with more values than this share of its rows is an id or a figure, and colours nothing."""

MOST_REASONS = 12


@dataclass(frozen=True, eq=False)
class Attribute:
    """Something known of every slide that points can be coloured by.

    Attributes:
        name: As shown.
        values: One text per slide of the store, "" where not known.
        compared: Whether neighbours are to be compared by it.
    """

    name: str
    values: list[str]
    compared: bool = True


@dataclass(frozen=True)
class Failed:
    """Slides that failed in a stage for one kind of reason."""

    stage: str
    slides: int
    reason: str
    first: str


@dataclass(frozen=True)
class Picture:
    """A slide in small with its tiles, as a data URI, or why there is none."""

    row: int
    slide: str
    note: str
    uri: str = ""


def attributes_of(store: Store, labels: str | Path | None) -> tuple[list[Attribute], list[str]]:
    """What slides can be coloured by: columns of the labels, TCGA's tissue source site, scanner; and patients.

    Args:
        store: The cohort store.
        labels: Table of labels, if any.

    Returns:
        The attributes; and the patient of each slide, its own id where that is not known.

    Raises:
        InvalidInput: The table cannot be used, or names no slide of the store.
    """
    slides = store.slides
    ids = slides.ids
    found, patient_cells = _columns(ids, labels) if labels is not None else ([], None)
    known = [mine or row.patient for mine, row in zip(patient_cells or [""] * len(ids), slides.rows, strict=True)]
    patients, _ = patients_of(ids, from_store=known, from_labels=None)
    sites = [tcga_site(slide) for slide in ids]
    if all(sites):
        found.append(Attribute("tissue source site", sites))
    vendors = [row.vendor for row in slides.rows]
    if len(set(vendors)) > 1:
        found.append(Attribute("scanner", vendors))
    if patients is not None:
        found.append(Attribute("patient", patients, compared=False))
    return found, patients or ids


def _columns(ids: Sequence[str], labels: str | Path) -> tuple[list[Attribute], list[str] | None]:
    """Columns of the table that group slides, and the patient of each slide if the table has them."""
    table = read_columns(labels)
    slide_column = require_column(table, "slide_id", path=labels)
    patient_column = find_column(table, "patient_id", path=labels)
    place = match(table[slide_column], ids)
    if not (place >= 0).any():
        raise InvalidInput(
            f"{labels}: none of {len(place)} slides is in the store: it names {table[slide_column][0]}, ...; the store "
            f"has {ids[0]}, ...",
            "Make the slide ids of the table those of the store.",
        )
    ours = {name for key in ("path", "mpp", "mask", "slide_id") for name in (key, *SYNONYMS[key])}
    attributes, patients = [], None
    for column, cells in table.items():
        values = [""] * len(ids)
        for where, cell in zip(place.tolist(), cells, strict=True):
            if where >= 0 and cell.casefold() not in MISSING:
                values[where] = cell
        if column == patient_column:
            patients = values
        groups = set(values) - {""}
        some = sum(value != "" for value in values)
        told = column not in (slide_column, patient_column) and column.casefold() not in ours
        if told and 1 < len(groups) <= max(2, MOST_GROUPS * some):
            attributes.append(Attribute(column, values))
    return attributes, patients


def failures_of(store: Store) -> list[Failed]:
    """Why slides failed, by stage and kind of reason, the most frequent first."""
    ids = store.slides.ids
    found: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for stage in STAGES:
        for slide, reason in zip(ids, store.failures(stage), strict=False):
            if reason:
                key = (stage, kind_of(reason))
                found[key] += 1
                first.setdefault(key, (slide, reason.splitlines()[0]))
    return [Failed(key[0], n, first[key][1], first[key][0]) for key, n in found.most_common(MOST_REASONS)]


def scanners_of(store: Store) -> list[tuple[str, str, str, int]]:
    """Format, microns per pixel of level 0, who says so, and slides, the most frequent first."""
    kinds = Counter(
        (row.vendor or "unreadable", f"{row.mpp:.3g}" if np.isfinite(row.mpp) else "unknown", row.mpp_source)
        for row in store.slides.rows
    )
    return [(*kind, n) for kind, n in kinds.most_common(MOST_REASONS)]


def tile_facts(store: Store) -> dict[str, Any]:
    """Tiles in all and per slide; empty where nothing is tiled."""
    if store.recipe("tiles") is None:
        return {}
    counts = read_column(store.array("tiles/count"))[: store.registered]
    done = np.sort(counts[counts >= 0])
    if not len(done):
        return {}
    low, middle, high = (int(v) for v in np.quantile(done, [0.05, 0.5, 0.95], method="nearest"))
    return {
        "slides": len(done),
        "tiles": int(done.sum()),
        "empty": int((done == 0).sum()),
        "low": low,
        "median": middle,
        "high": high,
    }


def pictures_of(store: Store, *, most: int, workers: int | None, progress: Progress) -> list[Picture]:
    """Slides with their tiles, at most `most` of them, evenly spread over the table.

    Reads pixels of slides; what cannot be read is said in the note of its picture.
    """
    slides = store.slides
    rows = np.unique(np.linspace(0, len(slides) - 1, min(most, len(slides))).round().astype(int)).tolist()
    tiled = store.recipe("tiles") is not None
    progress.start("drawing slides", len(rows))

    def draw(row: int) -> Picture:
        made = _picture(store, slides[row], row, tiled=tiled)
        progress.advance()
        return made

    with ThreadPoolExecutor(worker_count(workers)) as pool:
        return list(pool.map(draw, rows))


def _picture(store: Store, slide: SlideRow, row: int, *, tiled: bool) -> Picture:
    why = file_problem(slide) or ("" if slide.usable else "its size or resolution is not known")
    if why:
        return Picture(row, slide.id, why)
    try:
        small = thumbnail(slide.path, mpp=slide.mpp, long_px=THUMBNAIL_PX)
        count = int(store.array("tiles/count")[row]) if tiled else -1
        coords, edge_px = tile_grid_of(store, row) if count > 0 else (np.zeros((0, 2), np.int32), 1.0)
    except Exception as error:  # a damaged slide can raise anything, and must not take the report with it
        return Picture(row, slide.id, reason_of(error))
    picture = draw_grid(small, coords, edge_px=edge_px)
    data = BytesIO()
    picture.save(data, "JPEG", quality=QUALITY)
    note = f"{count:,} tiles" if count >= 0 else "not tiled"
    return Picture(row, slide.id, note, f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}")


def tile_numbers(store: Store) -> NDArray[np.int64]:
    """Tiles of every slide, -1 where not done, (slides,)."""
    if store.recipe("tiles") is None:
        return np.full(store.registered, -1, dtype=np.int64)
    return read_column(store.array("tiles/count"))[: store.registered].astype(np.int64)
