"""What is shown of slides: how many, how they differ, what failed, what they look like; and how one is found."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gigacli.cohort.content import slide_problem
from gigacli.errors import InvalidInput, NotFound, kind_of, reason_of
from gigacli.parallel import worker_count
from gigacli.probing.labels import MISSING, match
from gigacli.probing.patients import patients_of
from gigacli.progress import Progress
from gigacli.store.layout import STAGES
from gigacli.store.store import Store
from gigacli.store.table import SlideTable
from gigacli.store.tiles import TileGrid
from gigacli.tables import SYNONYMS, find_column, read_columns, require_column, tcga_site
from gigacli.wsi.overlay import draw_grid, thumbnail

THUMBNAIL_PX = 320
QUALITY = 78
MOST_GROUPS = 0.5
"""A column of the labels with more values than this share of its rows is an id or a figure, and colours nothing."""

MOST_REASONS = 12
NAMED = 3  # slides that a message names


@dataclass(frozen=True, eq=False)
class Grouping:
    """A property that divides slides into groups: a label, a lab, the scanner."""

    name: str  # as shown
    values: list[str]  # the group of every slide of the store, "" where not known
    compare_neighbours: bool = True  # whether to count how often neighbours are of one group


@dataclass(frozen=True)
class Failed:
    """Slides that failed in a stage for one kind of reason."""

    stage: str
    slides: int
    reason: str
    first: str


@dataclass(frozen=True)
class GalleryImage:
    """A thumbnail of a slide with its tiles, as a data URI, or why there is none."""

    row: int
    slide: str
    note: str
    uri: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A thumbnail of a slide with its tiles."""

    image: Image.Image | None  # None where it cannot be read
    note: str  # how many tiles it has, or why there is no picture


def find_slide(store: Store, name: str) -> int:
    """The row of a slide, by its id or, where only one is called so, by that without folders and extension.

    Raises:
        NotFound: There is none; the message names some that are called like it.
    """
    ids = store.slides.ids
    row = int(match([name], ids)[0])
    if row >= 0:
        return row
    alike = [one for one in ids if name.casefold() in one.casefold()][:NAMED] or get_close_matches(name, ids, n=NAMED)
    hint = f"did you mean {' or '.join(alike)}?" if alike else f"its slides are named like {', '.join(ids[:NAMED])}"
    raise NotFound(f"{store.url} holds no slide {name!r}", hint)


def groupings_of(
    slides: SlideTable, labels: str | Path | None, *, every: bool = False
) -> tuple[list[Grouping], list[str]]:
    """What slides can be coloured by: columns of the labels, TCGA's tissue source site, scanner; and patients.

    Args:
        slides: The slides of the store.
        labels: Table of labels, if any.
        every: Whether columns that divide slides into too many groups to be coloured by are wanted, too.

    Returns:
        The groupings; and the patient of each slide, its own id where that is not known.

    Raises:
        InvalidInput: The table cannot be used, or names no slide of the store.
    """
    ids = slides.ids
    found, patient_cells = _columns(ids, labels) if labels is not None else ([], None)
    found = [one for one in found if every or _divides(one.values)]
    patients = patients_of(ids, from_store=[row.patient for row in slides.rows], from_labels=patient_cells).names
    sites = [tcga_site(slide) for slide in ids]
    if all(sites):
        found.append(Grouping("tissue source site", sites))
    vendors = [row.vendor for row in slides.rows]
    if len(set(vendors)) > 1:
        found.append(Grouping("scanner", vendors))
    if patients is not None:
        found.append(Grouping("patient", list(patients), compare_neighbours=False))
    return found, list(patients or ids)


def coded(groupings: Sequence[Grouping], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Groups of the slides in some rows, ready for JSON: names, and of every slide the number of its own, or -1."""
    groups = []
    for grouping in groupings:
        values = [grouping.values[row] for row in rows]
        names = sorted(set(values) - {""})
        code = {name: i for i, name in enumerate(names)} | {"": -1}
        groups.append({"name": grouping.name, "names": names, "codes": [code[value] for value in values]})
    return groups


def _columns(ids: Sequence[str], labels: str | Path) -> tuple[list[Grouping], list[str] | None]:
    """Columns of the table that are no ids or paths, and the patient of each slide if the table has them."""
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
    groupings, patients = [], None
    for column, cells in table.items():
        values = [""] * len(ids)
        for where, cell in zip(place.tolist(), cells, strict=True):
            if where >= 0 and cell.casefold() not in MISSING:
                values[where] = cell
        if column == patient_column:
            patients = values
        if column not in (slide_column, patient_column) and column.casefold() not in ours:
            groupings.append(Grouping(column, values))
    return groupings, patients


def _divides(values: Sequence[str]) -> bool:
    """Whether values, "" where not known, divide slides into a few groups."""
    some, groups = sum(value != "" for value in values), set(values) - {""}
    return 1 < len(groups) <= max(2, MOST_GROUPS * some) and not _are_measured(groups)


def _are_measured(groups: set[str]) -> bool:
    """Whether names are numbers, some of them with decimals: a time or a size, which groups no slides."""
    try:
        return any(not float(group).is_integer() for group in groups)
    except ValueError:
        return False


def failures_of(store: Store, ids: Sequence[str]) -> list[Failed]:
    """Why slides (`ids` of all of them) failed, by stage and kind of reason, the most frequent first."""
    found: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], tuple[str, str]] = {}
    for stage in STAGES:
        for slide, reason in zip(ids, store.failures(stage), strict=False):
            if reason:
                key = (stage, kind_of(reason))
                found[key] += 1
                first.setdefault(key, (slide, reason.splitlines()[0]))
    return [Failed(key[0], n, first[key][1], first[key][0]) for key, n in found.most_common(MOST_REASONS)]


def scanners_of(slides: SlideTable) -> list[tuple[str, str, str, int]]:
    """Format, microns per pixel of level 0, who says so, and slides, the most frequent first."""
    kinds = Counter(
        (row.vendor or "unreadable", f"{row.mpp:.3g}" if np.isfinite(row.mpp) else "unknown", row.mpp_source)
        for row in slides.rows
    )
    return [(*kind, n) for kind, n in kinds.most_common(MOST_REASONS)]


def tile_facts(counts: NDArray[np.integer]) -> dict[str, Any]:
    """Tiles in all and per slide, from the tiles of every slide, -1 where not done; empty where nothing is tiled."""
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


def gallery_of(
    store: Store, slides: SlideTable, counts: NDArray[np.integer], *, most: int, workers: int | None, progress: Progress
) -> list[GalleryImage]:
    """Slides with their tiles, at most `most` of them, evenly spread over the table.

    Reads pixels of slides; what cannot be read is said in the note of its picture.
    """
    rows = np.unique(np.linspace(0, len(slides) - 1, min(most, len(slides))).round().astype(int)).tolist()
    progress.start("drawing slides", len(rows))

    def draw(row: int) -> GalleryImage:
        made = picture_of(store, row, tiles=int(counts[row]))
        progress.advance()
        if made.image is None:
            return GalleryImage(row, slides[row].id, made.note)
        data = BytesIO()
        made.image.save(data, "JPEG", quality=QUALITY)
        uri = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
        return GalleryImage(row, slides[row].id, made.note, uri)

    with ThreadPoolExecutor(worker_count(workers)) as pool:
        return list(pool.map(draw, rows))


def picture_of(store: Store, row: int, *, tiles: int) -> Picture:
    """A small picture of the slide in a row, and its tiles, of which there are so many; -1 where it is not tiled."""
    slide = store.slides[row]
    why = slide_problem(store, row) or ("" if slide.usable else "its size or resolution is not known")
    if why:
        return Picture(None, why)
    try:
        small = thumbnail(slide.path, mpp=slide.mpp, long_px=THUMBNAIL_PX)
        grid = store.tiles.grid(row) if tiles > 0 else TileGrid(np.zeros((0, 2), np.int32), 1.0)
    except Exception as error:  # a damaged slide can raise anything, and must not take the others with it
        return Picture(None, reason_of(error))
    note = f"{tiles:,} tiles" if tiles >= 0 else "not tiled"
    return Picture(draw_grid(small, grid.coords, edge_px=grid.edge_px), note)
