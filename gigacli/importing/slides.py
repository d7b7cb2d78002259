"""The slides that imported files belong to: ids, patients and paths, from the files and from the user's table."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from gigacli.config.tools import ImportConfig
from gigacli.errors import InvalidInput
from gigacli.store.store import Store
from gigacli.store.table import SlideRow, SlideTable
from gigacli.tables import bare_id, find_column, read_columns, refuse_missing, tcga_patient


@dataclass(frozen=True)
class SlideMetadata:
    """What the user's table says of a slide: microns per level-0 pixel, its patient, its file."""

    mpp: float | None = None
    patient: str = ""
    path: str = ""


def read_metadata(csv: Path | None) -> dict[str, SlideMetadata]:
    """Slide -> what the user's table says of it.

    Args:
        csv: A table with a column `slide_id`, or `path` whose file names are the ids; and any of `mpp`, `patient_id`.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It cannot be used.
    """
    if csv is None:
        return {}
    table = read_columns(csv)
    path_column = find_column(table, "path", path=csv) if "path" in {c.casefold() for c in table} else None
    id_column = find_column([c for c in table if c != path_column], "slide_id", path=csv)
    columns = {name: find_column(table, name, path=csv) for name in ("mpp", "patient_id")}
    if id_column is None and path_column is None:
        raise InvalidInput(f"{csv} has no column slide_id or path: found {', '.join(table)}", "add a column slide_id")
    metadata: dict[str, SlideMetadata] = {}
    for i in range(len(next(iter(table.values())))):
        cell = {key: table[c][i] if c is not None else "" for key, c in (*columns.items(), ("path", path_column))}
        slide = bare_id(table[id_column][i] if id_column is not None else cell["path"])
        if slide in metadata:
            raise InvalidInput(f"{csv} names the slide {slide} twice", "keep one row per slide")
        metadata[slide] = SlideMetadata(_number(cell["mpp"], csv, slide), cell["patient_id"], cell["path"])
    return metadata


def refuse_unused(
    metadata: Mapping[str, SlideMetadata], slides: Iterable[str], *, known: Store, config: ImportConfig
) -> str:
    """Refuse a table that names slides which are neither imported (`slides`) nor in the store, unless it may.

    Returns:
        Those slides in a sentence, "" where there are none.

    Raises:
        NotFound: There are some, and that is not allowed.
    """
    among = {*slides, *known.slides.ids}
    unused = [slide for slide in metadata if slide not in among]
    said = f"of {len(metadata)} slides that {config.csv} names are neither among the files nor in the store"
    return refuse_missing(unused, among=sorted(among), said=said, allow=config.allow_missing)


def _number(cell: str, csv: Path, slide: str) -> float | None:
    if not cell:
        return None
    try:
        value = float(cell)
    except ValueError:
        value = 0.0
    if not 0 < value < 1000:
        raise InvalidInput(
            f"{csv}: mpp of {slide} is {cell!r}; expected microns per pixel", "correct it, or leave it empty"
        )
    return value


def patient_of(slide: str, metadata: SlideMetadata | None, *, said: str = "") -> str:
    """Return the table's patient, else the one that the files say, else the one in a TCGA barcode, else ""."""
    return (metadata.patient if metadata is not None else "") or said or tcga_patient(slide)


def refuse_new(known: Store, slides: Iterable[str]) -> None:
    """Refuse new slides for a store that was tiled by giga; a store of imports may get more.

    Raises:
        InvalidInput: Slides are not in a store of the first kind.
    """
    tiles, index = known.tiles.found, known.slides.index
    new = [slide for slide in slides if slide not in index]
    if tiles is not None and tiles.stage != "import" and new:
        raise InvalidInput(
            f"{len(new)} files are of slides that {known.url} does not have, such as {new[0]}; its slides were "
            "registered and tiled by giga tile",
            f"register them first: giga tile {known.url} SLIDES; or import into a store of its own",
        )


def merged(known: SlideTable, rows: Iterable[SlideRow], *, settled: Collection[str] = ()) -> SlideTable:
    """Merge new slides, and what is new about known ones, into the slide table.

    Args:
        known: The slides that are there.
        rows: Slides as the files and the table describe them.
        settled: Slides with tiles, whose size and resolution must stay as they are.
    """
    now = []
    for row in rows:
        old = known[known.index[row.id]] if row.id in known.index else None
        if old is None:
            now.append(row)
            continue
        new = replace(old, patient=old.patient or row.patient, path=old.path or row.path)
        if row.id not in settled and math.isfinite(row.mpp):
            new = replace(new, size_px=row.size_px, mpp=row.mpp, mpp_source=row.mpp_source)
        if new != old:
            now.append(new)
    return known.with_rows(now)
