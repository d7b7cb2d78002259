"""The tiles of many slides, found in threads, each with hashes of what it was found in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gigacli.cohort.content import hash_of_mask, hash_of_slide
from gigacli.config.verbs import TileConfig
from gigacli.errors import reason_of
from gigacli.parallel import as_ready, worker_count
from gigacli.store.table import SlideRow
from gigacli.wsi.qc_folder import QCFolder
from gigacli.wsi.tiling import Tiles, find_tiles

Corners = Callable[[str], NDArray[np.int32]]


@dataclass(frozen=True)
class Found:
    """The tiles of a slide, and hashes of the mask and the file they were found in."""

    tiles: Tiles
    mask: int
    file: int


def find_all(
    config: TileConfig, rows: Iterable[int], table: Sequence[SlideRow], qc: QCFolder, *, laid: Corners | None = None
) -> Iterator[tuple[int, Found | str]]:
    """Yield rows of slides with their tiles, or the reason of failure; few slides are in memory at once.

    Args:
        config: Options of ``giga tile``.
        rows: Rows of the slides.
        table: All slides of the cohort.
        qc: Where pictures go; those it lacks are drawn.
        laid: Corners of tiles that others laid, by the ids of slides; None where they are to be found.
    """

    def find(row: int) -> Found:
        slide = table[row]
        # before the tiles: a file that is replaced meanwhile is not what its tiles say it is
        mask, file = hash_of_mask(slide.mask), hash_of_slide(Path(slide.path), whole=config.hash)
        tiles = find_tiles(
            slide.path,
            slide_mpp=slide.mpp,
            mpp=config.mpp,
            tile_px=config.tile_px,
            overlap_px=config.overlap,
            min_tissue=config.min_tissue,
            upsample=config.upsample,
            mask=slide.mask,
            laid=laid(slide.id) if laid is not None else None,
            title=slide.id,
            draw=qc.lacks(slide.id),
        )
        return Found(tiles, mask, file)

    for row, found in as_ready(find, rows, workers=worker_count(config.workers)):
        yield row, reason_of(found) if isinstance(found, Exception) else found
