"""Tile features and tiles as files: one or two per slide."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigacli.errors import SlideError
from gigacli.exporting.geojson import tile_feature, write_collection
from gigacli.exporting.h5 import tile_attributes, write_h5
from gigacli.exporting.origin import Rows, note_of, slides_for_files
from gigacli.exporting.output import export_folder
from gigacli.progress import Progress
from gigacli.store.groups import Features, TileGrid, Tiles
from gigacli.store.table import SlideRow
from gigacli.wsi.patches import open_slide

CROPPED = ("mirax", "leica", "ventana", "zeiss")
"""OpenSlide's names of the formats whose slides may state bounds; only these need to be opened,
and slides of which the store does not know what they are."""


def to_h5(group: Features, rows: Rows, *, to: Path, progress: Progress) -> None:
    """A file per slide in the layout of TRIDENT's tile features: ``features`` (tiles, width), ``coords`` (tiles, 2)."""
    encoder, tiling = str(group.config.get("encoder", group.name)), group.store.tiles.config
    with export_folder(to, note_of(group)) as folder:
        for slide, grid, features in _features(group, rows, progress):
            write_h5(folder / f"{slide.id}.h5", features, slide=slide, encoder=encoder, grid=grid, tiling=tiling)


def to_npy(group: Features, rows: Rows, *, to: Path, progress: Progress) -> None:
    """Three files per slide: features/ID.npy (tiles, width) float16, coords/ID.npy (tiles, 2) int32, coords/ID.json."""
    encoder, tiling = str(group.config.get("encoder", group.name)), group.store.tiles.config
    with export_folder(to, note_of(group)) as folder:
        (folder / "features").mkdir()
        (folder / "coords").mkdir()
        for slide, grid, features in _features(group, rows, progress):
            np.save(folder / "features" / f"{slide.id}.npy", features, allow_pickle=False)
            np.save(folder / "coords" / f"{slide.id}.npy", grid.coords, allow_pickle=False)
            about = {"encoder": encoder, **tile_attributes(grid.edge_px, tiling, slide)}
            text = json.dumps(about, indent=1, ensure_ascii=False)
            (folder / "coords" / f"{slide.id}.json").write_text(text + "\n", encoding="utf-8")


def _features(
    group: Features, rows: Rows, progress: Progress
) -> Iterator[tuple[SlideRow, TileGrid, NDArray[np.float16]]]:
    """Yield row, grid and features slide by slide, so that no more than one slide's are in memory."""
    slides, grids = slides_for_files(group, rows), group.store.tiles.grids(rows)
    progress.start(f"exporting {group.path}", len(slides))
    for row, slide, grid in zip(rows.tolist(), slides, grids, strict=True):
        yield slide, grid, group.read(row)
        progress.advance()


def to_geojson(group: Tiles, rows: Rows, *, to: Path, progress: Progress) -> str:
    """A file per slide for QuPath: a FeatureCollection with one tile object per tile, its tissue share as measurement.

    QuPath shows the slides of some scanners cropped to the bounds they state and counts pixels from there, so the
    corner of these bounds is subtracted; the file says which it was, in ``origin_px``.

    Returns:
        Which slides could not be opened to look for bounds, in words; "" where all were.
    """
    slides, unknown = slides_for_files(group, rows), []
    progress.start(f"exporting {group.path}", len(slides))
    with export_folder(to, note_of(group)) as folder:
        for row, slide, grid in zip(rows.tolist(), slides, group.grids(rows), strict=True):
            origin = _origin(slide)
            if origin is None:
                unknown.append(slide.id)
            file, corner = folder / f"{slide.id}.geojson", origin or (0, 0)
            write_collection(file, _tiles(grid, group.tissue(row), corner), origin_px=list(corner))
            progress.advance()
    if not unknown:
        return ""
    return (
        f"{len(unknown)} slides could not be opened to see whether QuPath crops them, so their tiles are where they "
        f"are in the whole image: {', '.join(unknown[:3])}"
    )


def _origin(slide: SlideRow) -> tuple[int, int] | None:
    """Level-0 pixel that QuPath counts from; None where that cannot be known."""
    if slide.vendor and slide.vendor not in CROPPED:
        return 0, 0
    try:
        with open_slide(slide.path) as opened:
            return opened.bounds_px[:2]
    except SlideError:
        return None


def _tiles(grid: TileGrid, tissue: NDArray[np.float32], origin: tuple[int, int]) -> Iterator[dict[str, Any]]:
    for i, ((x, y), share) in enumerate(zip((grid.coords - np.array(origin)).tolist(), tissue.tolist(), strict=True)):
        box = (x, y, round(x + grid.edge_px, 2), round(y + grid.edge_px, 2))
        measurements = {"tile": i} | ({"tissue": round(share, 4)} if np.isfinite(share) else {})
        yield tile_feature(i, box, measurements=measurements)
